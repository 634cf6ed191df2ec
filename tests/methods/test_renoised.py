"""NFT, online DPO and RAFT on rollouts in memory: gradients by hand, ranks, draws, what teaches nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.config.methods import nft
from diffalign.config.rollout import Advantage, Kl, Rollout
from diffalign.core.errors import UserError
from diffalign.diffusion.forward_losses import goodness
from diffalign.methods import method as methods
from diffalign.reference.reference import live
from diffalign.rollouts.source import RolloutSource
from tests.helpers import memory_rollouts
from tests.helpers.memory_batches import Denoiser
from tests.helpers.memory_rollouts import Fixed, gradient
from tests.helpers.methods import Offers, settings

KINDS, METHODS = ["diffusion", "flow"], ["nft", "online_dpo", "raft"]


class OldWeights:
    """The old weights of a denoiser of one tensor."""

    def __init__(self, policy: Denoiser) -> None:
        self.policy, self.weight = policy, policy.weight.detach().clone()

    @torch.no_grad()
    def keep(self, share: float = 0.0) -> None:
        self.weight = share * self.weight + (1 - share) * self.policy.weight

    @contextmanager
    def put_back(self) -> Iterator[None]:
        now = self.policy.weight.data
        self.policy.weight.data = self.weight
        try:
            yield
        finally:
            self.policy.weight.data = now


class WithOld(Offers):
    def __init__(self, source: RolloutSource, policy: Denoiser) -> None:
        super().__init__(source)
        object.__setattr__(self, "weights", OldWeights(policy))

    def old(self) -> OldWeights:
        found: OldWeights = self.weights  # type: ignore[attr-defined]
        return found


def made(source: RolloutSource, method: str, policy: Denoiser, **changes: Any) -> Any:
    values = {
        "rollout": Rollout.model_construct(updates=source.places.updates),
        "advantage": Advantage(kind="group", clip=5.0),
        "kl": Kl(weight=0.0, space="output"),
        "old": nft.OldPolicy(start=0, rate=0.25, most=0.5),
        "strength": 1.0,
        "draws": 2,
        "beta": 0.02,
        "link": "sigmoid",
        "seed": 0,
        "timesteps": (0.0, 1.0),
        "timestep_density": "uniform",
        "stratified": False,
        "prompt_drop": 0.0,
    }
    return methods.load(settings(method, **values | changes), WithOld(source, policy))


def plain(kind: str = "diffusion", **changes: Any) -> RolloutSource:
    return memory_rollouts.source(kind, **{"guidance": 1.0} | changes)


def scored(values: list[float], **changes: Any) -> RolloutSource:
    return replace(plain(**changes), scorers={"r": Fixed(values)}, weighing={"r": 1.0})


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_nft_at_the_start_is_the_weighted_gradient_of_the_errors(kind: str, guidance: float) -> None:
    """At o = old: 5 (2 r - 1) times that of the mean squared error / its mean size, pictures' draws averaged."""
    policy = Denoiser(0)
    method = made(plain(kind, guidance=guidance), "nft", policy)
    rows = list(method.batches(policy, None, 0))
    found, logs = gradient(method, policy)
    assert logs["old_change"] == 0
    advantage = torch.cat([method.rewards[start : start + 4] for start in (0, 4)]).view(2, 4)
    advantage = ((advantage - advantage.mean(1, keepdim=True)) / advantage.std(1, keepdim=True, correction=0)).flatten()
    torch.testing.assert_close(method.good.double(), goodness(advantage, 5.0), rtol=1e-3, atol=1e-3)
    policy.weight.grad = None
    for number, row in enumerate(rows):
        good = method.good[4 * (number // 2) :][:4]  # two draws of each piece of four
        with_prompt = policy(row.noised.x_t, row.noised.t, row.noised.cond)
        without = policy(row.noised.x_t, row.noised.t, {"hidden": torch.zeros(4, 3, 2)})
        error = without + guidance * (with_prompt - without) - row.noised.target
        relative = error.square().mean(dim=(1, 2, 3)) / error.detach().abs().mean(dim=(1, 2, 3))
        (5 * (2 * good - 1) * relative).sum().div(2).backward()
    torch.testing.assert_close(found, policy.weight.grad, rtol=1e-4, atol=1e-6)


def test_nfts_old_policy_rolls_out_and_follows() -> None:
    """After the first step's update it keeps a quarter of itself; resumed from there, it follows once, too."""
    policy = Denoiser(0)
    method = made(plain(), "nft", policy)
    gradient(method, policy)
    first = policy.weight.detach().clone()
    with torch.no_grad():
        policy.weight += 0.1
    old = method.old.weight.clone()
    assert torch.equal(old, first)
    _, logs = gradient(method, policy, step=1)
    torch.testing.assert_close(method.old.weight, 0.25 * first + 0.75 * policy.weight.detach())
    assert logs["old_change"] > 0
    expected = method.played.updates[0][0].trajectory.states[-1]
    resumed = made(plain(), "nft", policy)
    resumed.old.weight = old
    gradient(resumed, policy, step=1)
    assert torch.equal(resumed.played.updates[0][0].trajectory.states[-1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_online_dpo_is_dpo_on_the_best_and_the_worst(kind: str) -> None:
    """Groups of four: the third is best and the second worst. By hand, at noise levels that both share."""
    policy, reference = Denoiser(0), Denoiser(1)
    method = made(scored([2.0, 1.0, 4.0, 3.0], kind=kind), "online_dpo", policy)
    batches = list(method.batches(policy, live(reference), 0))
    found, logs = gradient(method, policy, live(reference))
    policy.weight.grad = None
    x0 = torch.cat([piece.trajectory.states[-1] for piece in method.played.updates[0]])
    assert [len(batch) for batch in batches] == [2, 2]  # two groups, at each of two noise levels
    for batch in batches:
        w, l = batch.x_t.chunk(2)
        clean, eps = method.source.process.noised, torch.zeros_like(w)
        apart = clean(x0[[2, 6]], eps, batch.t[:2]) - clean(x0[[1, 5]], eps, batch.t[:2])
        torch.testing.assert_close(w - l, apart, rtol=1e-4, atol=1e-4)  # the noise is the same
        errors = [(network(batch.x_t, batch.t, batch.cond) - batch.target) for network in (policy, reference)]
        (own_w, own_l), (ref_w, ref_l) = (error.square().mean(dim=(1, 2, 3)).chunk(2) for error in errors)
        z = 0.01 * ((own_l - ref_l.detach()) - (own_w - ref_w.detach()))
        (torch.nn.functional.softplus(-z).sum() * 4 / 2).backward()  # four pictures a group, two draws
    torch.testing.assert_close(found, policy.weight.grad, rtol=1e-4, atol=1e-6)
    assert {"implicit_accuracy", "winner_change", "reward_r", "constant"} <= logs.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_raft_is_the_error_on_the_best(kind: str) -> None:
    policy = Denoiser(0)
    method = made(scored([2.0, 1.0, 4.0, 3.0], kind=kind), "raft", policy)
    batches = list(method.batches(policy, None, 0))
    found, _ = gradient(method, policy)
    policy.weight.grad = None
    slots = [slot.index for batch in method.extremes(policy, 0, 4) for slot in batch[0].best]
    assert slots == [2, 6] * 2
    for batch in batches:
        error = policy(batch.x_t, batch.t, batch.cond) - batch.target
        (error.square().mean(dim=(1, 2, 3)).sum() * 4 / 2).backward()
    torch.testing.assert_close(found, policy.weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_reward_teaches_nothing_and_is_counted(method: str) -> None:
    policy = Denoiser(0)
    found, logs = gradient(made(scored([0.1] * 4), method, policy), policy, live(Denoiser(0)))
    assert bool((found == 0).all())
    assert float(logs["constant"]) == pytest.approx(8)


@pytest.mark.parametrize("method", ["nft", "online_dpo"])
def test_a_negated_reward_has_the_opposite_gradient_at_the_start(method: str) -> None:
    policy = Denoiser(0)
    one = scored([2.0, 1.0, 4.0, 3.0])
    for_it, _ = gradient(made(one, method, policy), policy, live(Denoiser(0)))
    against, _ = gradient(made(replace(one, weighing={"r": -1.0}), method, policy), policy, live(Denoiser(0)))
    torch.testing.assert_close(for_it, -against, rtol=1e-3, atol=1e-5 * float(for_it.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_pictures_without_a_score_are_dropped_and_counted(method: str) -> None:
    policy, nan = Denoiser(0), float("nan")
    one = made(scored([1.0, nan, 3.0, nan]), method, policy)
    found, logs = gradient(one, policy, live(Denoiser(1)))
    assert bool(found.isfinite().all()) and bool((found != 0).any())
    assert float(logs["dropped"]) == pytest.approx(4)
    if method == "nft":
        assert [int(x) for row in one.batches(policy, None, 0) for x in row.counted] == [1, 0, 1, 0] * 4
    else:
        chosen = [(found.best[0].index, found.worst[0].index) for found, _, _ in one.extremes(policy, 0, 1)]
        assert chosen == [(2, 0)] * 2 + [(6, 4)] * 2


@pytest.mark.parametrize("method", ["online_dpo", "raft"])
def test_the_best_is_best_by_all_rewards(method: str) -> None:
    """The second picture has the highest share, the fourth the largest size: kilobytes would choose that one."""
    scorers = {"share": Fixed([0.1, 0.9, 0.5, 0.4]), "size": Fixed([40.0, 38.0, 25.0, 41.0])}
    source = replace(plain(), scorers=scorers, weighing={"share": 1.0, "size": 1.0})
    chosen = [found.best[0].index for found, _, _ in made(source, method, Denoiser(0)).extremes(Denoiser(0), 0, 1)]
    assert chosen == [1, 1, 5, 5]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_pieces_have_one_ranks_gradient(kind: str, method: str) -> None:
    """Brightness of the pictures is smooth; prompts are dropped where the method may."""
    policy, reference = Denoiser(0), live(Denoiser(1))
    changes = {"prompt_drop": 0.0 if method == "nft" else 0.5, "stratified": True}
    changes |= {"kl": Kl(weight=0.3, space="output")}
    whole = plain(kind)
    expected, logs = gradient(made(whole, method, policy, **changes), policy, reference)
    small = made(plain(kind, micro_batch_size=2), method, policy, **changes)
    torch.testing.assert_close(gradient(small, policy, reference)[0], expected, rtol=1e-4, atol=1e-6)
    every = small.played.rewards
    total, figures = torch.zeros_like(expected), 0.0
    for rank in (0, 1):
        mine = replace(whole, places=replace(whole.places, world=2, rank=rank), summed=lambda own: given(own, every))
        found, its = gradient(made(mine, method, policy, **changes), policy, reference)
        total, figures = total + found, figures + its["reward_brightness"]
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(figures, logs["reward_brightness"])


def given(own: Tensor, rewards: Tensor) -> Tensor:
    """What both ranks' parts sum to: rewards, or marks of those that are known."""
    return rewards.to(own) if own.is_floating_point() and bool((own < 0).any()) else torch.ones_like(own)


def test_draws_are_the_slots_own_and_spread_over_strata() -> None:
    """Two noise levels a picture in four strata of two pictures each: one in each half of the schedule."""
    policy = Denoiser(0)
    method = made(plain(), "nft", policy, stratified=True)
    t = torch.stack([row.noised.t for row in method.batches(policy, None, 0)]).view(2, 2, 4)
    assert bool((t[:, 0] < 500).all() and (t[:, 1] >= 500).all())
    assert sorted((t // 62.5).long().flatten().tolist()) == list(range(16))


def test_groups_must_be_whole_on_each_process() -> None:
    places = replace(plain().places, world=4)
    with pytest.raises(
        UserError, match=r"raft: expected batch_size / processes, 2, to be a multiple of rollout\.images"
    ):
        made(replace(plain(), places=places), "raft", Denoiser(0))
