"""What a probe says, by hand: its draws, its statistics, its clusters."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from diffalign.data.batches.pairs import Pair
from diffalign.diffusion.losses import gradient_weight
from diffalign.diffusion.process import Diffusion, scaled_linear
from diffalign.diffusion.rng import pair_draw, probe_draw
from diffalign.diffusion.timesteps import Times
from diffalign.evaluation.implicit_reward import reward_draw
from diffalign.methods.dpo import DPO
from diffalign.methods.sft import SFT
from diffalign.monitoring import curve as points
from diffalign.monitoring.probe import Draws, describe, drift, measure

TIMES = Times(Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon"), 0.4, 1.0)
SHAPE = (4, 8, 8)


class Source:
    """A stand-in for the shards: a batch is its places."""

    times, shape = TIMES, SHAPE

    def __init__(self, rank: int, world: int, micro_batch_size: int) -> None:
        self.rank, self.world, self.micro_batch_size = rank, world, micro_batch_size

    def drawn(self, pairs: Any, draws: Any) -> list[tuple[str, float]]:
        return [(pair.pair_id, draw.t) for pair, draw in zip(pairs, draws, strict=True)]


def make_draws(rank: int = 0, world: int = 1, size: int = 4, count: int = 7, K: int = 5) -> Draws:
    pairs = [Pair(f"p{n}", f"prompt {n}", "a", "b", 1.0, 1.0) for n in range(count)]
    return Draws(Source(rank, world, size), pairs, K, seed=0)  # type: ignore[arg-type]


def test_a_draw_is_a_function_of_seed_pair_and_number() -> None:
    first = probe_draw(0, "p", 1, 5, SHAPE, TIMES)
    assert torch.equal(first.eps, probe_draw(0, "p", 1, 5, SHAPE, TIMES).eps)
    assert not (first.flip_w or first.flip_l or first.drop or first.posterior_w.any() or first.posterior_l.any())
    others = [probe_draw(1, "p", 1, 5, SHAPE, TIMES), probe_draw(0, "q", 1, 5, SHAPE, TIMES)]
    others += [probe_draw(0, "p", 2, 5, SHAPE, TIMES), pair_draw(0, 0, 1, SHAPE, TIMES, "none", 0.0)]
    for eps in [*(other.eps for other in others), reward_draw(0, "p", 1, SHAPE, TIMES)[1]]:
        assert not torch.equal(first.eps, eps)


@pytest.mark.parametrize("times", [TIMES, replace(TIMES, density="logit_normal")])
def test_a_pairs_draws_fill_the_density_evenly(times: Times) -> None:
    for pair in ("p", "q", "r"):
        ts = [probe_draw(0, pair, k, 5, SHAPE, times).t for k in range(5)]
        edges = [times.process.time(times.share(k / 5)) for k in range(6)]
        assert all(low <= t <= high for low, t, high in zip(edges, ts, edges[1:], strict=False)), ts


def test_five_draws_are_one_in_each_bin() -> None:
    draws = make_draws()
    bins = np.searchsorted(draws.edges, draws.t.ravel(), side="right")
    assert draws.edges == [520, 640, 760, 880]
    assert Counter(bins.tolist()) == dict.fromkeys(range(5), 7)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_the_draws_and_make_equally_many_forwards(world: int) -> None:
    """35 draws in micro-batches of 4 at most, all of one size (rounding depends on it): each once over all ranks."""
    shares = [make_draws(rank, world).share() for rank in range(world)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    slots = [slot for share in shares for part in share for slot in part]
    assert slots == list(range(len(slots))) and 35 <= len(slots)  # those from 35 on are padding
    (size,) = {len(part) for part in shares[0]}
    assert size <= 4 and len(shares[0]) == math.ceil(math.ceil(35 / world) / 4)  # forward passes: no more than must be


def test_measured_errors_stand_where_their_draw_is() -> None:
    draws = make_draws(size=3)
    names = {pair.pair_id: n for n, pair in enumerate(draws.pairs)}

    def errors(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        ts = torch.tensor([float(t) for _, t in batch])
        return ts, torch.tensor([float(names[pair]) for pair, _ in batch])

    found = measure(draws, errors, Accelerator(cpu=True))
    np.testing.assert_array_equal(found[..., 0], draws.t)
    np.testing.assert_array_equal(found[..., 1], np.repeat(np.arange(7.0)[:, None], 5, axis=1))
    first = measure(draws, errors, Accelerator(cpu=True), first=True)
    assert np.isfinite(first[..., 0]).sum() == 3 and (first[0, :3] == found[0, :3]).all()


REFERENCE = np.array([[[0.2, 0.4], [0.1, 0.1]], [[0.4, 0.2], [0.1, 0.1]], [[0.3, 0.3], [0.1, 0.1]]])
CHANGE = np.array([[[-0.02, 0.04], [0.0, 0.0]], [[0.02, -0.02], [0.0, 0.0]], [[-0.03, 0.01], [0.03, 0.01]]])
T = np.array([[450.0, 950.0]] * 3)
EDGES = [520, 640, 760, 880]


def described(**changes: Any) -> points.Point:
    options = {"reference": REFERENCE, "policy": REFERENCE + CHANGE, "prompts": ["x", "y", "z"], "t": T, "edges": EDGES}
    return describe(**(options | changes))


def test_a_point_by_hand() -> None:
    """Margins, loser's change less winner's: (.06, 0), (-.04, 0), (.04, -.02): mean .04 / 6.

    Per pair .03, -.02, .01: two of three ranked right. Winners: changes -.02 0 .02 0 -.03 .03 sum to 0; losers .04 of
    1.2. In the first bin winners change by -.03 of .9, losers by .03 of .9; in the last by .03 and .01 of .3.
    """
    point = described()
    expected = {
        "broken": 0,
        "margin": 0.04 / 6,
        "accuracy": 2 / 3,
        "winner_change": 0,
        "loser_change": 0.04 / 6,
        "winner_relative": 0,
        "loser_relative": 0.04 / 1.2,
        "t1/winner_relative": -0.03 / 0.9,
        "t1/loser_relative": 0.03 / 0.9,
        "t5/winner_relative": 0.03 / 0.3,
        "t5/loser_relative": 0.01 / 0.3,
    }
    for name, value in expected.items():
        assert point[name] == pytest.approx(value, abs=1e-12), name
    assert not [name for name in point if name.startswith(("t2", "t3", "t4"))]
    assert point["accuracy_low"] < 2 / 3 < point["accuracy_high"]
    # Clusters' sums of margins .06 -.04 .02, of counts 2: residuals .06-.04/3 ..., K / (K - 1) = 3 / 2.
    residuals = np.array([0.06, -0.04, 0.02]) - 0.04 / 3
    assert point["margin_se"] == pytest.approx(math.sqrt(1.5 * (residuals**2).sum()) / 6)


def test_pairs_of_one_prompt_are_one_cluster() -> None:
    """Two pairs of one prompt always agree: half as many clusters, a wider error; one cluster alone has none."""
    twice = {
        "reference": np.concatenate([REFERENCE] * 2),
        "policy": np.concatenate([REFERENCE + CHANGE] * 2),
        "t": np.concatenate([T] * 2),
    }
    apart = described(**twice, prompts=list("abcdef"))
    together = described(**twice, prompts=["x", "y", "z", "x", "y", "z"])
    assert together["margin"] == apart["margin"]
    assert together["margin_se"] == pytest.approx(described()["margin_se"])
    assert together["margin_se"] > 1.2 * apart["margin_se"]
    alone = described(prompts=["x", "x", "x"])
    assert "margin_se" not in alone and "winner_relative_se" not in alone and "margin" in alone


def test_saturated_is_where_the_loss_hardly_falls() -> None:
    """beta / 2 = 50: logits 3, 0, -2, 0, 2, -1; sigmoid(-3) = 0.047, sigmoid(-2) = 0.119: one of six."""
    source: Any = None
    assert described(pull=DPO(source, 100.0, "sigmoid").pull)["saturated"] == pytest.approx(1 / 6)
    assert described(pull=DPO(source, 100.0, "hinge").pull)["saturated"] == pytest.approx(2 / 6)
    assert DPO(source, 100.0, "ipo").pull is None
    assert SFT(source).pull is None
    assert "saturated" not in described()


def test_the_weight_of_a_gradient() -> None:
    z = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(gradient_weight(z, "sigmoid"), torch.sigmoid(-z))
    torch.testing.assert_close(gradient_weight(z, "hinge"), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(gradient_weight(z, "ipo"), (2 * (z - 0.5)).abs())


def test_errors_that_are_no_number_are_counted_and_nothing_else_is_said() -> None:
    policy = REFERENCE.copy()
    policy[0, 0, 0] = math.nan
    policy[2, 1, 1] = math.inf
    assert described(policy=policy) == {"broken": pytest.approx(2 / 12)}


def test_drift_is_over_what_was_measured_again() -> None:
    again = np.full_like(REFERENCE, np.nan)
    again[0] = REFERENCE[0] * 1.1
    assert drift(REFERENCE, again) == pytest.approx(0.1)
    assert drift(REFERENCE, REFERENCE) == 0


def test_points_are_found_among_the_lines_of_a_curve() -> None:
    lines = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6, "probe/margin": 0.1}, {"step": 3, "probe/t1/x": 2.0}]
    found = points.points(lines)  # type: ignore[arg-type]
    assert found == [{"step": 2, "margin": 0.1}, {"step": 3, "t1/x": 2.0}]
    assert dict(points.named(found[0])) == {"probe/margin": 0.1}
