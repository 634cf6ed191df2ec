"""DDPO, GRPO and DPOK on rollouts in memory: ratios, gradients, trust regions, ranks, what can't be scored."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.config.methods import ddpo, dpok
from diffalign.config.rollout import Advantage, Kl, Rollout
from diffalign.core.errors import Outage, UserError
from diffalign.methods import method as methods
from diffalign.methods.policy_gradients import MovesMethod
from diffalign.reference.reference import live
from diffalign.rollouts.source import RolloutSource
from tests.helpers import memory_rollouts
from tests.helpers.memory_batches import Denoiser
from tests.helpers.memory_rollouts import Fixed, gradient
from tests.helpers.methods import Offers, settings

KINDS = ["diffusion", "flow"]


def made(source: RolloutSource, method: str = "ddpo", **changes: Any) -> MovesMethod:
    """A method on a source, with all moves training."""
    values = {
        "rollout": Rollout.model_construct(updates=source.places.updates),
        "advantage": Advantage(kind="group", clip=5.0),
        "moves": ddpo.Moves(share=1.0, span=(0.0, 1.0)),
        "trust": "clip",
        "clip": 1e-3,
        "kl": Kl(weight=0.0, space="output"),
        "seed": 0,
        "micro_batch_size": source.places.micro_batch_size,
        "value": dpok.Value(width=8, lr=1e-2, steps=3),
    }
    found = methods.load(settings(method, **values | changes), Offers(source))
    assert isinstance(found, MovesMethod)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_at_ratio_1_is_the_score_functions(kind: str) -> None:
    """-A times the mean over moves of the gradient of log p, by autograd on log-probabilities written out here."""
    policy, source = Denoiser(0), memory_rollouts.source(kind)
    method = made(source)
    found, logs = gradient(method, policy)
    assert logs["ratio_away"] == 0
    policy.weight.grad = None
    total = torch.zeros(())
    for update in method.played.updates:  # type: ignore[union-attr]
        for piece in update:
            states, trainable = piece.trajectory.states, piece.trajectory.trainable
            for move in trainable:
                t, t_prev = piece.trajectory.moves[move]
                output = source.output(policy, piece.slots)(states[move], torch.full((4,), t))
                a, b, s = source.plan.process.coefficients(torch.tensor([t]), torch.tensor([t_prev]), source.plan.noise)
                mean = a.float() * states[move] + b.float() * output
                score = torch.distributions.Normal(mean, s.float()).log_prob(states[move + 1]).mean(dim=(1, 2, 3))
                total = total - (method.advantages_of(piece.slots, torch.zeros(4)) * score).sum() / len(trainable)
    total.backward()
    torch.testing.assert_close(found, policy.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_moves_without_noise_are_never_trained(kind: str) -> None:
    source = replace(memory_rollouts.source(kind), steps=20)
    piece = source.pieces(0, 0)[0]
    stds = source.roll(Denoiser(0), piece, 0).stds[:, 0]
    rows = list(made(source).batches(Denoiser(0), None, 0))
    trained = {int(move) for batch in rows for move in batch.moves}
    assert trained == {i for i, std in enumerate(stds.tolist()) if std >= 1e-3}


def test_a_learning_rate_of_0_keeps_every_ratio_1() -> None:
    """Over four updates of a rollout, and in the next one."""
    method, policy = made(memory_rollouts.source(updates=4)), Denoiser(0)
    assert all(gradient(method, policy, step=step)[1]["ratio_away"] == 0 for step in range(6))


def test_without_the_unconditional_half_ratios_are_1_and_the_gradient_is_the_conditional_halfs() -> None:
    """A network of one weight matrix W, guided by 2: the output's gradient in W is the conditional's alone, twice."""
    source, policy = memory_rollouts.source(updates=2, train_unconditional=False), Denoiser(0)
    method = made(source)
    found, logs = gradient(method, policy)
    assert logs["ratio_away"] == gradient(method, policy, step=1)[1]["ratio_away"] == 0
    both, _ = gradient(made(replace(source, train_unconditional=True)), policy)
    assert float((found - both).norm()) > 0.01 * float(both.norm())
    slots, x = source.pieces(0, 0)[0], torch.ones(4, *source.shape)
    t, weight = torch.full((4,), 500), policy.weight
    (slope,) = torch.autograd.grad(source.output(policy, slots)(x, t).sum(), weight)
    (conditional,) = torch.autograd.grad(policy(x, t, source.condition(slots, [False] * 4)).sum(), weight)
    torch.testing.assert_close(slope, 2 * conditional)


@pytest.mark.parametrize("method", ["ddpo", "dpok"])
@pytest.mark.parametrize("trust", ["clip", "divergence"])
def test_several_moves_in_a_forward_have_the_gradient_of_one_at_a_time(method: str, trust: str) -> None:
    """12 rows hold 3 moves of a piece's 4 pictures, 4 or 5 of which train; no ratio leaves 1, whatever the shapes."""
    source, policy, reference = memory_rollouts.source(), Denoiser(0), live(Denoiser(1))
    changes = {"trust": trust, "kl": Kl(weight=0.3, space="transition")}
    expected, logs = gradient(made(source, method, **changes), policy, reference)
    several = made(source, method, micro_batch_size=12, **changes)
    found, theirs = gradient(several, policy, reference)
    assert float((found - expected).norm()) < 1e-4 * float(expected.norm())
    torch.testing.assert_close(theirs, logs, rtol=1e-4, atol=1e-4)
    assert theirs["ratio_away"] == 0
    rows = list(several.batches(policy, reference, 0))
    assert [len(batch.slots) for batch in rows] == [12, 8] * 2
    assert rows[0].moves.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [slot.index for slot in rows[2].slots] == [4, 5, 6, 7] * 3


def test_two_ranks_fill_their_forwards_with_moves() -> None:
    """Pieces of 4 on each of two ranks, 8 rows a forward: as many forwards on both, and one rank's gradient."""
    whole, policy = memory_rollouts.source(), Denoiser(0)
    expected, _ = gradient(made(whole, micro_batch_size=8), policy)
    total, forwards = torch.zeros_like(expected), set()
    for rank in (0, 1):
        mine, other = (replace(whole, places=replace(whole.places, world=2, rank=r)) for r in (rank, 1 - rank))
        method = made(joined(mine, other, policy, "ddpo"), micro_batch_size=8)
        forwards.add(tuple(len(batch.slots) for batch in method.batches(policy, None, 0)))
        total = total + gradient(method, policy)[0]
    assert forwards == {(8, 8, 4)}
    assert float((total - expected).norm()) < 1e-4 * float(expected.norm())


def test_with_several_updates_a_forward_has_the_rollouts_shape() -> None:
    method = made(memory_rollouts.source(updates=2), micro_batch_size=12)
    assert {len(batch.slots) for batch in method.batches(Denoiser(0), None, 0)} == {4}


def test_a_negated_reward_has_the_opposite_gradient() -> None:
    source, policy = memory_rollouts.source(), Denoiser(0)
    for_it, _ = gradient(made(source), policy)
    against, _ = gradient(made(replace(source, weighing={"brightness": -1.0})), policy)
    torch.testing.assert_close(for_it, -against)


def test_a_constant_reward_teaches_nothing_and_is_counted() -> None:
    source = replace(memory_rollouts.source(), scorers={"r": Fixed([0.1] * 4)}, weighing={"r": 1.0})
    found, logs = gradient(made(source), Denoiser(0))
    assert bool((found == 0).all())
    assert float(logs["constant"]) == pytest.approx(source.batch_size)


def test_pictures_without_a_score_are_dropped_and_counted() -> None:
    """The second picture of each piece has none: its rows have no gradient, and it isn't in the statistics."""
    values = [1.0, float("nan"), 3.0, 2.0]
    source = replace(memory_rollouts.source(), scorers={"r": Fixed(values)}, weighing={"r": 1.0})
    method = made(source)
    found, logs = gradient(method, Denoiser(0))
    expected = torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=torch.float64) * 1.5**0.5
    torch.testing.assert_close(method.advantages, expected.repeat(2), rtol=1e-5, atol=0)
    assert bool(found.isfinite().all())
    assert float(logs["dropped"]) == pytest.approx(2)


@pytest.mark.parametrize("method", ["ddpo", "dpok"])
def test_a_rewards_unit_doesnt_matter_beside_another(method: str) -> None:
    """A size in kilobytes or in bytes, beside a share: raw, the share would be drowned."""
    share, size = [0.1, 0.9, 0.5, 0.4], [40.0, 10.0, 25.0, 41.0]
    found = []
    for unit in (1.0, 1000.0):
        scorers = {"share": Fixed(share), "size": Fixed([unit * value for value in size])}
        source = replace(memory_rollouts.source(), scorers=scorers, weighing={"share": 1.0, "size": 0.5})
        one = made(source, method)
        _, logs = gradient(one, Denoiser(0), live(Denoiser(0)))
        assert float(logs["reward_size"]) == pytest.approx(8 * unit * 29)  # what is logged is in its own unit
        found.append(one.advantages)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert bool((found[0][1] > found[0][3]).all()), "the share has the larger weight"


def test_a_reward_that_scores_nothing_ends_the_run() -> None:
    source = replace(memory_rollouts.source(), scorers={"r": Fixed([float("inf")] * 4)}, weighing={"r": 1.0})
    with pytest.raises(UserError, match=r"\(r\): expected scores, found none for 8 pictures") as error:
        gradient(made(source), Denoiser(0))
    assert not isinstance(error.value, Outage)


def test_a_service_that_scores_nothing_may_be_asked_another_time() -> None:
    """Two rewards, of which the service's alone lacks: the run is worth another try."""
    silent, weighing = replace(Fixed([float("nan")] * 4), service=True), {"known": 1.0, "asked": 1.0}
    source = replace(memory_rollouts.source(), scorers={"known": Fixed([1.0] * 4), "asked": silent}, weighing=weighing)
    with pytest.raises(Outage, match=r"\(asked\): expected scores.* goes on from the last checkpoint"):
        gradient(made(source), Denoiser(0))


@pytest.mark.parametrize("method", ["ddpo", "dpok"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_have_one_ranks_gradient(kind: str, method: str) -> None:
    """Each rank alone, with a sum that adds the other's part: the sum of their gradients is that of one rank."""
    whole = memory_rollouts.source(kind, updates=2)
    policy = Denoiser(0)
    reference, changes = live(Denoiser(1)), {"kl": Kl(weight=0.3, space="output")}
    expected, logs = gradient(made(whole, method, **changes), policy, reference)
    total, figures = torch.zeros_like(expected), 0.0
    for rank in (0, 1):
        mine, other = (replace(whole, places=replace(whole.places, world=2, rank=r)) for r in (rank, 1 - rank))
        found, its = gradient(made(joined(mine, other, policy), method, **changes), policy, reference)
        total, figures = total + found, figures + its["reward_brightness"]
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(figures, logs["reward_brightness"])


def joined(mine: RolloutSource, other: RolloutSource, policy: Denoiser, method: str = "dpok") -> RolloutSource:
    """A rank's source whose sums have the other rank's part, computed here in the same order."""
    parts: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        parts.append(tensor)
        return tensor

    theirs = made(replace(other, summed=keep), method)
    list(theirs.batches(policy, None, 0))
    ahead: Iterator[Tensor] = iter(parts)
    return replace(mine, summed=lambda tensor: tensor + next(ahead))


@pytest.mark.parametrize("space", ["output", "transition"])
def test_the_pull_to_the_reference_has_a_gradient(space: Any) -> None:
    """With a constant reward, only the divergence is left; at the reference it is 0."""
    source = replace(memory_rollouts.source(), scorers={"r": Fixed([0.1] * 4)}, weighing={"r": 1.0})
    method = made(source, kl=Kl(weight=1.0, space=space))
    found, logs = gradient(method, Denoiser(0), live(Denoiser(1)))
    assert bool((found != 0).any())
    assert logs["kl"] > 0
    found, logs = gradient(made(source, kl=Kl(weight=1.0, space=space)), Denoiser(0), live(Denoiser(0)))
    assert bool((found == 0).all())
    assert logs["kl"] == 0


def test_the_divergence_region_begins_at_the_rollouts_own_means() -> None:
    """At the rollout's weights no mean has moved but for rounding; after a change of the weights all have."""
    policy, method = Denoiser(0), made(memory_rollouts.source(updates=2), trust="divergence", clip=1e-9)
    assert gradient(method, policy)[1]["clip_share"] == 0
    with torch.no_grad():
        policy.weight += 0.05
    assert float(gradient(method, policy, step=1)[1]["clip_share"]) == pytest.approx(method.source.batch_size)


def test_a_history_is_as_it_was_before_a_rollout_that_isnt_over() -> None:
    method, policy = made(memory_rollouts.source(updates=2), advantage=Advantage(kind="history", clip=5.0)), Denoiser(0)
    gradient(method, policy, step=0)
    assert int(method.state()["known"].sum()) == 0
    gradient(method, policy, step=1)
    assert int(method.state()["known"].sum()) == 16


def test_the_value_network_learns_the_rewards() -> None:
    """Taught long on one rollout, its baseline leaves less of the rewards' spread than their mean does."""
    source = replace(memory_rollouts.source(), scorers={"r": Fixed([0.0, 0.0, 1.0, 1.0])}, weighing={"r": 1.0})
    method: Any = made(
        source, "dpok", value=dpok.Value(width=32, lr=1e-2, steps=300), kl=Kl(weight=0.0, space="output")
    )
    gradient(method, Denoiser(0), live(Denoiser(0)))
    before = method.advantages.square().mean()
    method.began(method.played)
    assert method.advantages.square().mean() < 0.2 * before


def test_the_value_network_is_put_back() -> None:
    """What goes on from a state amid a rollout has the same advantages."""
    source, policy = memory_rollouts.source(updates=2), Denoiser(0)
    whole: Any = made(source, "dpok")
    for step in range(3):
        gradient(whole, policy, step=step)
    resumed: Any = made(source, "dpok")
    resumed.restore({name: tensor.clone() for name, tensor in whole.state().items()})
    gradient(resumed, policy, step=3)
    assert torch.equal(resumed.advantages, whole.advantages)
    assert all(torch.equal(a, b) for a, b in zip(resumed.snapshot().values(), whole.snapshot().values(), strict=True))
