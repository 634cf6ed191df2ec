"""The implicit reward is what its formula says, at draws that never move."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair
from diffalign.data.shards.reader import prompt_key
from diffalign.diffusion.process import Diffusion, scaled_linear
from diffalign.diffusion.timesteps import Times
from diffalign.evaluation import implicit_reward as implicit

EPSILON = Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon")
V = Diffusion(scaled_linear(0.00085, 0.012, 1000), "v_prediction")
SHAPE = (4, 8, 8)


class Memory:
    """A store of samples in memory."""

    def __init__(self, samples: dict[str, dict[str, Tensor]]) -> None:
        self.samples = samples

    def get(self, key: str) -> dict[str, Tensor]:
        return self.samples[key]


def pair(n: int) -> Pair:
    return Pair(f"pair-{n}", f"prompt {n}", f"w{n}", f"l{n}", 1.0, 1.0)


PAIRS = [pair(n) for n in range(5)]


def stores() -> tuple[Memory, Memory]:
    """Winners' latents are +1, losers' -1; a prompt's condition is its number."""
    images = {
        f"{side}{n}": {"mean": torch.full(SHAPE, value)} for n in range(5) for side, value in (("w", 1.0), ("l", -1.0))
    }
    prompts = {prompt_key(p.prompt): {"hidden": torch.full((3, 2), float(n))} for n, p in enumerate(PAIRS)}
    return Memory(images), Memory(prompts)


def errors(denoise: Any, pairs: list[Pair] = PAIRS, **changes: Any) -> np.ndarray:
    images, prompts = stores()
    options = {"draws": 3, "times": Times(EPSILON), "seed": 0, "batch_size": 4, "device": "cpu"} | changes
    return implicit.errors(denoise, pairs, images, prompts, **options)


def nothing(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Predicts zero: its error is the mean square of the noise."""
    return torch.zeros_like(x_t)


def winners_noise(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Knows the noise exactly where the latents are the winners' (+1): error 0 on winners, large on losers."""
    alpha, sigma = EPSILON.scales(t, x_t)
    return (x_t - alpha) / sigma


def test_errors_by_hand() -> None:
    """Predicting zero, the error is mean(eps²), the same for both images of a pair, as they share eps."""
    found = errors(nothing)
    assert found.shape == (5, 3, 2)
    for n, k in ((0, 0), (4, 2)):
        _, eps = implicit.reward_draw(0, PAIRS[n].pair_id, k, SHAPE, Times(EPSILON))
        np.testing.assert_allclose(found[n, k], float(eps.square().mean()), rtol=1e-6)


def test_rewards_by_hand() -> None:
    """A policy that knows the winners' noise: r_w = mean(eps²) - 0 over the draws; r_l is lower."""
    reference, policy = errors(nothing), errors(winners_noise)
    found = implicit.rewards(reference, policy)
    np.testing.assert_allclose(found[:, 0], reference[:, :, 0].mean(axis=1), atol=1e-4)
    assert (found[:, 0] > found[:, 1]).all()


def test_a_policy_that_is_its_reference_has_no_preference() -> None:
    found = implicit.rewards(errors(nothing), errors(nothing))
    np.testing.assert_array_equal(found, 0)


def test_swapped_pairs_swap_rewards() -> None:
    swapped = [Pair(p.pair_id, p.prompt, p.image_l, p.image_w, 1.0, 1.0) for p in PAIRS]
    np.testing.assert_array_equal(errors(winners_noise)[..., ::-1], errors(winners_noise, swapped))


def test_both_images_of_a_pair_share_timestep_noise_and_prompt() -> None:
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        calls.append((x_t, t, cond["hidden"]))
        return torch.zeros_like(x_t)

    errors(watch, batch_size=6)
    assert [len(x_t) for x_t, _, _ in calls] == [6, 6, 6, 6, 6]
    for x_t, t, hidden in calls:
        assert torch.equal(t[0::2], t[1::2])
        assert torch.equal(hidden[0::2], hidden[1::2])
        alpha, sigma = EPSILON.scales(t, x_t)
        sign = torch.tensor([1.0, -1.0]).repeat(3).view(-1, 1, 1, 1)
        eps = (x_t - alpha * sign) / sigma
        assert torch.allclose(eps[0::2], eps[1::2], atol=1e-3)
    assert [float(hidden[0, 0, 0]) for _, _, hidden in calls] == [0, 1, 2, 3, 4]


def test_errors_depend_on_nothing_but_seed_pair_and_draw() -> None:
    whole = errors(winners_noise)
    np.testing.assert_allclose(errors(winners_noise, batch_size=1), whole, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(errors(winners_noise, batch_size=99), whole, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(errors(winners_noise, [PAIRS[3], PAIRS[1]]), whole[[3, 1]], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(errors(winners_noise, draws=5)[:, :3], whole, rtol=1e-6, atol=1e-12)
    assert not np.allclose(errors(winners_noise, seed=1), whole)


def test_draws_are_fixed_and_spread() -> None:
    """These figures may not change: results of different days are compared at the same draws."""
    t, eps = implicit.reward_draw(0, "pair-0", 0, SHAPE, Times(EPSILON))
    assert (t, round(float(eps[0, 0, 0]), 4)) == (61, 0.5587)
    times = np.array([implicit.reward_draw(0, f"p{i}", 0, (1,), Times(EPSILON))[0] for i in range(2000)])
    assert (times.min(), times.max()) >= (0, 990)
    assert times.max() <= 999
    assert abs(times.mean() - 499.5) < 4 * 288.7 / 2000**0.5


def test_draws_keep_to_their_timesteps() -> None:
    seen: list[int] = []

    def watch(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        seen.extend(t.tolist())
        return torch.zeros_like(x_t)

    errors(watch, times=Times(EPSILON, 0.4, 0.5), draws=20)
    assert min(seen) >= 400 and max(seen) < 500 and len(set(seen)) > 30


def test_v_prediction_is_judged_on_v() -> None:
    """Predicting zero, the error is mean(v²), v = alpha eps - sigma x0, which differs between x0 = 1 and x0 = -1."""
    found = errors(nothing, times=Times(V))
    t, eps = implicit.reward_draw(0, PAIRS[0].pair_id, 0, SHAPE, Times(V))
    alpha, sigma = float(V.alpha_bar[t].sqrt()), float((1 - V.alpha_bar[t]).sqrt())
    wanted = [float((alpha * eps - sigma * x0).square().mean()) for x0 in (1.0, -1.0)]
    np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_error_that_is_not_finite_is_refused_by_its_pairs_name(value: float) -> None:
    def broken(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Fails for the third pair's prompt, whose condition is 2."""
        return torch.where(cond["hidden"][:, :1, :1, None] == 2, value, 0.0).expand_as(x_t)

    with pytest.raises(UserError, match=r"finite denoising errors.*pair-2\."):
        errors(broken)


def test_progress_counts_every_draw() -> None:
    counts: list[int] = []
    errors(nothing, done=counts.append)
    assert sum(counts) == 15


def test_rewards_need_the_same_draws() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3, 2\) and \(5, 2, 2\)"):
        implicit.rewards(errors(nothing), errors(nothing, draws=2))
