"""DRaFT, AlignProp, ReFL and DRTune on rollouts in memory: autograd's gradients, windows, ranks, what is left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffalign.config.rollout import Kl
from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.diffusion.rng import RENOISE, WINDOW, generator, normal
from diffalign.diffusion.rollouts import rollout
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.generation.pipeline import no_noise
from diffalign.methods import method as methods
from diffalign.methods.reward_gradient import GradientMethod
from diffalign.reference.reference import live
from diffalign.rollouts.source import RolloutSource
from tests.helpers import memory_rollouts
from tests.helpers.memory_batches import Denoiser
from tests.helpers.methods import Offers, settings
from tests.helpers.project import METHODS, make_params

QUIET = {
    "diffusion": {"name": "ddim", "eta": 0.0, "spacing": "leading"},
    "flow": {"name": "flow_euler"},
}
KINDS = list(QUIET)
NAMES = ("draft", "alignprop", "refl", "drtune")


def source(kind: str = "diffusion", **changes: Any) -> RolloutSource:
    return memory_rollouts.source(kind, sampler=samplers.load(QUIET[kind]), **changes)


def made(
    offered: RolloutSource, method: str = "draft", hinge: float | None = None, kl: float = 0.0, **gradient: Any
) -> Any:
    """A method on a source, of its default in tests but for some of `gradient`."""
    typed = axes.load("diffalign.config.methods", method).Gradient
    values = {"gradient": typed(**METHODS[method]["gradient"] | gradient), "hinge": hinge}
    values |= {"kl": Kl(weight=kl, space="output")}
    found = methods.load(settings(method, **values), Offers(offered))
    assert isinstance(found, GradientMethod)
    return found


def gradient(method: Any, policy: Denoiser, reference: Any = None, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of a step's mean loss, and the means of its logs and its loss."""
    policy.weight.grad, sums, size = None, dict[str, Tensor](), method.source.batch_size
    for batch in method.batches(policy, reference, step):
        loss, logs = method.loss(policy, reference, batch, True)
        (loss / size).backward()
        for name, value in {"loss": loss.detach(), **logs}.items():
            sums[name] = sums.get(name, 0) + value / size
    assert policy.weight.grad is not None
    return policy.weight.grad.clone(), sums


def scores(each: RolloutSource, policy: Denoiser, piece: Any) -> Tensor:
    """The rewards [s] of a piece's pictures, in one graph with the rollout."""
    start = torch.stack([each.places.start(0, slot, each.shape) for slot in piece])
    rolled = rollout(each.output(policy, piece), each.process, each.sampler, start, each.steps, no_noise)
    return each.rewards(each.pictures(rolled.states[-1]), piece)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hinged", [False, True])
def test_drafts_gradient_is_autograds_through_rollout_decoder_and_reward(kind: str, hinged: bool) -> None:
    """Its loss, too: minus the mean reward, or how far rewards are below the hinge, which half of them are above."""
    policy, each = Denoiser(0), source(kind)
    values = torch.cat([scores(each, policy, piece) for piece in each.pieces(0, 0)])
    hinge = values.median().item() + 1e-4 if hinged else None
    found, logs = gradient(made(each, steps=5, hinge=hinge), policy)
    loss = (-values if hinge is None else (hinge - values).relu()).mean()
    (expected,) = torch.autograd.grad(loss, policy.weight)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float(logs["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(logs["reward_brightness"]) == pytest.approx(values.mean().item(), rel=1e-5)
    assert float(logs["reward_std"]) == pytest.approx(values.std(correction=0).item(), rel=1e-4)
    assert float(logs["moves"]) == 5 and float(logs["dropped"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_draft_lv_averages_over_pictures_that_are_noised_again(kind: str) -> None:
    """By autograd on the last move alone, from states written out here."""
    policy, each = Denoiser(0), source(kind)
    found, _ = gradient(made(each, renoise=3), policy)
    t, t_prev = each.plan.moves[-1]
    total = torch.zeros((), dtype=torch.float64)
    for piece in each.pieces(0, 0):
        x0, times = each.roll(policy, piece, 0).states[-1], torch.full((len(piece),), t)
        for draw in range(3):
            eps = torch.stack([normal(generator(RENOISE, 3, 0, slot.index, draw), each.shape) for slot in piece])
            x_t = each.process.noised(x0, eps, times)
            end = each.process.step(each.output(policy, piece)(x_t, times), x_t, t, t_prev)
            total = total - each.rewards(each.pictures(end), piece).sum() / (3 * 8)
    (expected,) = torch.autograd.grad(total, policy.weight)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_accumulating_and_ranks_are_one_large_batch(name: str) -> None:
    """The window is a step's, not a piece's or a rank's; pieces of 2, and four ranks."""
    policy = Denoiser(0)
    whole, _ = gradient(made(source(micro_batch_size=8), name), policy, step=2)
    close = {"rtol": 1e-4, "atol": 1e-5 * float(whole.abs().max())}
    torch.testing.assert_close(gradient(made(source(micro_batch_size=2), name), policy, step=2)[0], whole, **close)
    ranks = [gradient(made(source(rank=r, world=4, micro_batch_size=2), name), policy, step=2)[0] for r in range(4)]
    torch.testing.assert_close(torch.stack(ranks).sum(0), whole, **close)


@dataclass(frozen=True)
class Lacking:
    """Brightness, of which every fourth picture has none: two of eight; its own gradient there isn't a number."""

    differentiable: bool = True

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        weight = torch.ones(len(pixels), dtype=torch.float64)
        weight[3::4] = torch.nan
        return weight * memory_rollouts.Brightness()(pixels, prompts)


def test_pictures_without_a_score_push_nothing_and_are_counted() -> None:
    policy, each = Denoiser(0), source()
    found, logs = gradient(made(replace(each, scorers={"brightness": Lacking()}), steps=5), policy)
    values = torch.cat([scores(each, policy, piece)[:3] for piece in each.pieces(0, 0)])
    (expected,) = torch.autograd.grad(-values.sum() / 8, policy.weight)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float(logs["dropped"]) == pytest.approx(2 / 8)
    assert float(logs["reward_brightness"]) == pytest.approx(values.mean().item(), rel=1e-5)


def test_a_negated_reward_has_the_opposite_gradient_and_weights_add() -> None:
    policy, each = Denoiser(0), source()
    whole, _ = gradient(made(each, steps=2), policy)
    against, _ = gradient(made(replace(each, weighing={"brightness": -1.0}), steps=2), policy)
    assert torch.equal(against, -whole)
    twice = {"one": memory_rollouts.Brightness(), "two": memory_rollouts.Brightness()}
    both, _ = gradient(made(replace(each, scorers=twice, weighing={"one": 2.0, "two": 0.5}), steps=2), policy)
    torch.testing.assert_close(both, 2.5 * whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_a_kl_pulls_to_the_reference_and_has_a_gradient() -> None:
    """It's 0, without gradient, where policy and reference are one; else the mean over rows of (o - o_ref)^2."""
    policy, each = Denoiser(0), source()
    free, _ = gradient(made(each, steps=2), policy)
    same, logs = gradient(made(each, steps=2, kl=10.0), policy, live(Denoiser(0)))
    assert torch.equal(same, free) and float(logs["kl"]) == 0
    other = Denoiser(1)
    held, logs = gradient(made(each, steps=2, kl=10.0), policy, live(other))
    rows = [
        (
            (each.output(policy, b.slots)(b.row.x_t, b.row.t) - each.output(other, b.slots)(b.row.x_t, b.row.t)) ** 2
        ).mean()
        for b in made(each, steps=2).batches(policy, None, 0)
    ]
    kl = torch.stack(rows).mean()
    (pull,) = torch.autograd.grad(kl, policy.weight)
    torch.testing.assert_close(held - free, 10 * pull, rtol=1e-3, atol=1e-4 * float(pull.abs().max()))
    assert float(logs["kl"]) == pytest.approx(kl.item(), rel=1e-5)


def windows(name: str, moves: int, **gradient: Any) -> list[tuple[int, list[int]]]:
    """Of 200 steps, where each stops and which moves train."""
    draw = made(source(), name, **gradient).how.draw
    found = [draw(moves, generator(WINDOW, 0, step)) for step in range(200)]
    assert all(0 <= move < one.stop <= moves for one in found for move in one.trained)
    return [(one.stop, list(one.trained)) for one in found]


def test_windows() -> None:
    """DRaFT's are the last K; AlignProp's K is drawn; ReFL trains its stop; DRTune's are even parts of the way."""
    assert windows("draft", 20, steps=3)[0] == (20, [17, 18, 19])
    drawn = windows("alignprop", 20, steps=(2, 5))
    assert {len(trained) for _, trained in drawn} == {2, 3, 4, 5} and all(t[-1] == 19 for _, t in drawn)
    refl = windows("refl", 40, stop=(0.75, 1.0))
    assert {trained[0] for _, trained in refl} == set(range(30, 40))
    assert all(trained == [stop - 1] for stop, trained in refl)
    drtune = windows("drtune", 25, steps=3, stop=(0.6, 1.0))
    assert {stop for stop, _ in drtune} == set(range(16, 26)) and all(len(set(trained)) == 3 for _, trained in drtune)
    assert all(abs(2 * t[1] - t[0] - t[2]) <= 1 for _, t in drtune) and len({t[0] for _, t in drtune}) > 4


def test_rows_move_rewards_up() -> None:
    """Fifteen steps of plain descent by each method raise the reward that it follows."""
    for name in NAMES:
        policy = Denoiser(0)
        method, found = made(source(), name), []
        for step in range(15):
            slope, logs = gradient(method, policy, step=step)
            with torch.no_grad():
                policy.weight -= 0.5 * slope / slope.norm().clamp(min=1)
            found.append(float(logs["reward_brightness"]))
        assert np.mean(found[-5:]) > np.mean(found[:5])


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("draft", {"reward": {"oracle": {"weight": 1.0}}}, r"reward\.oracle: expected a reward with gradients"),
        ("refl", {"reward": {"jpeg_compressibility": {"weight": 1.0}}}, r"reward\.jpeg_compressibility: expected a"),
        ("draft", {"rollout": {"sampler": QUIET["diffusion"] | {"eta": 1.0}}}, r"rollout\.sampler: expected one of"),
        ("draft", {"rollout": {"sampler": {"name": "dpmpp_2m", "spacing": "leading"}}}, r"rollout\.sampler: expected"),
        ("draft", {"rollout": {"updates": 2}}, r"rollout\.updates: expected 1"),
        ("draft", {"kl": {"weight": 0.1, "space": "transition"}}, r"kl\.space: expected output"),
        ("draft", {"kl": {"weight": 0.1, "space": "output"}, "reference": "none"}, r"reference: expected live"),
        ("draft", {"gradient": {"steps": 5}}, r"gradient\.steps: expected at most 4"),
        ("alignprop", {"gradient": {"steps": [3, 2]}}, r"gradient\.steps: expected the fewest and the most"),
        ("refl", {"gradient": {"stop": [1.0, 0.5]}}, r"gradient\.stop: expected a lower"),
        ("drtune", {"gradient": {"steps": 4}}, r"gradient\.steps: expected at most 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(name: str, changes: dict[str, Any], expected: str, tmp_path: Any) -> None:
    """When params are read: a reward without gradients by its name, noise in the steps, too many steps."""
    defaults = METHODS[name]
    nested = {key: defaults[key] | value for key, value in changes.items() if key in ("rollout", "gradient")}
    base = {"base": {"method": "none"}}
    make_params(tmp_path, base | {"mine": {"method": name}}, rollouts={"rewards_from": "judge"})
    with pytest.raises(UserError, match=rf"policies\.mine\.{expected}"):
        make_params(
            tmp_path, base | {"mine": {"method": name, **changes, **nested}}, rollouts={"rewards_from": "judge"}
        )
