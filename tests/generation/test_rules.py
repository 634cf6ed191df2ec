"""Rules of sampling on a toy: what is kept, the gradient, the update by hand, rows that can't be scored, the cost."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.diffusion import coupled
from diffalign.diffusion.process import Diffusion, Flow, Process, scaled_linear
from diffalign.diffusion.reward_gradients import chain_of, sweep
from diffalign.diffusion.rollouts import rollout
from diffalign.diffusion.sampling import StepNoise
from diffalign.generation.gallery import Entry, Rewarded, decided, forwards
from diffalign.generation.pipeline import Chain, chains, initial_noise, latent_shape, sampling_of
from diffalign.generation.rules import optimise
from diffalign.generation.rules.rule import Found, Rule, Starts, load
from diffalign.models import family as families
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3

PROMPTS = ["a fox", "an owl", "a cat"]
DOODL = {"iterations": 3, "lr": 1.0, "momentum": 0.9, "clip": 0.01, "noise": 0.0, "keep": "best", "coupled": None}
EULER = {"sampler": {"name": "flow_euler"}, "steps": 2, "guidance": 1.0}


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(1.5 * x.roll(1, dims=3) + t.view(-1, 1, 1, 1) / 1000)


def chain(process: Process, how: dict[str, Any]) -> Chain:
    """Latents are the pictures."""
    return Chain(network, process, sampling_of(how), lambda x0: x0)


FLOW = chain(Flow(1000, 1.0), EULER)


def starts(prompts: Sequence[str] = PROMPTS) -> Starts:
    return Starts(0, prompts, [0] * len(prompts), (3, 2, 2), torch.device("cpu"))


def score(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """Near a colour of the prompt's own."""
    wanted = torch.tensor([len(prompt) / 10 for prompt in prompts]).view(-1, 1, 1, 1)
    return -((pixels - wanted) ** 2).mean(dim=(1, 2, 3))


def unknown(which: Sequence[str]) -> Any:
    """A reward that can't score some prompts."""

    def found(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        nan = torch.tensor([math.nan if prompt in which else 0.0 for prompt in prompts])
        return score(pixels, prompts) + nan

    return found


RULES = {"best_of": {"n": 5}, "optimise": DOODL, "coupled": DOODL | {"coupled": 0.93, "noise": 0.01}}


def rule(name: str) -> Rule:
    return load("best_of" if name == "best_of" else "optimise", RULES[name] | {"reward": "toy"})


def test_the_best_of_n_is_the_best_of_as_many_plain_images_the_first_among_them() -> None:
    at = starts()
    pixels = [FLOW.pictures(at.noise(k), at.added(k)) for k in range(5)]
    scores = torch.stack([score(x, PROMPTS) for x in pixels]).double()
    found = rule("best_of")(FLOW, at, score)
    assert torch.equal(found.kept, scores.max(dim=0).values) and torch.equal(found.at, scores.argmax(dim=0))
    assert torch.equal(found.first, scores[0]) and found.missing.tolist() == [0, 0, 0]
    assert all(torch.equal(found.pixels[i], pixels[k][i]) for i, k in enumerate(found.at.tolist()))
    assert torch.equal(at.noise(0)[0], initial_noise(0, "a fox", 0, (3, 2, 2)))
    assert len({float(at.noise(k)[0, 0, 0, 0]) for k in range(5)}) == 5


@pytest.mark.parametrize("name", RULES)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    whole = rule(name)(FLOW, starts(), score)
    for i, prompt in enumerate(PROMPTS):
        alone = rule(name)(FLOW, starts([prompt]), score)
        torch.testing.assert_close(alone.pixels[0], whole.pixels[i], rtol=0, atol=1e-6)
        assert alone.at[0] == whole.at[i]


@pytest.mark.parametrize("name", RULES)
def test_what_cannot_be_scored_stays_as_it_was_and_the_others_too(name: str) -> None:
    plain, whole = FLOW.pictures(starts().noise(), starts().added()), rule(name)(FLOW, starts(), score)
    found = rule(name)(FLOW, starts(), unknown(["an owl"]))
    assert found.kept.isnan().tolist() == found.first.isnan().tolist() == [False, True, False]
    assert found.at[1] == 0 and found.missing.tolist() == [0, 5 if name == "best_of" else 4, 0]
    if name != "coupled":
        assert torch.equal(found.pixels[1], plain[1])
    assert torch.equal(found.pixels[0], whole.pixels[0]) and torch.equal(found.pixels[2], whole.pixels[2])


def test_a_candidate_that_cannot_be_scored_is_not_chosen_and_a_score_beats_none() -> None:
    found = Found(*(torch.zeros(2, 1, 1, 1),) * 1, *(torch.tensor([1.0, math.nan]),) * 2, *(torch.zeros(2).long(),) * 2)
    found.improve(1, torch.ones(2, 1, 1, 1), torch.tensor([math.nan, -9.0]))
    assert found.at.tolist() == [0, 1] and found.missing.tolist() == [1, 0]
    assert found.kept.tolist() == [1, -9] and found.pixels.flatten().tolist() == [0, 1]


DIFFUSION = Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon")
SAMPLERS: list[tuple[Process, dict[str, Any]]] = [
    (DIFFUSION, {"name": "dpmpp_2m", "spacing": "trailing"}),
    (DIFFUSION, {"name": "ddim", "eta": 1.0, "spacing": "leading"}),
    (Flow(1000, 3.0), {"name": "flow_euler"}),
]


FAMILIES: list[tuple[str, Any, dict[str, Any]]] = [
    ("sd15", make_model, {"name": "ddim", "eta": 0.0, "spacing": "leading"}),
    ("sd3", make_sd3, {"name": "flow_euler"}),
]


@pytest.mark.parametrize(("process", "sampler"), SAMPLERS)
def test_the_gradient_is_autograds_through_the_whole_chain_and_the_sweeps(
    process: Process, sampler: dict[str, Any]
) -> None:
    way, at = chain(process, {"sampler": sampler, "steps": 6, "guidance": 1.0}), starts()
    x = at.noise().double()
    added: StepNoise = lambda step: at.added()(step).double()  # noqa: E731
    _, scores, found = optimise.plain_ascent(way, at, score, x, added)
    start = x.clone().requires_grad_()
    expected = score(way.pictures(start, added), PROMPTS)
    (gradient,) = torch.autograd.grad(expected.sum(), start)
    assert torch.equal(scores, expected.detach()) and (found - gradient).abs().max() < 1e-12
    if sampler["name"] != "dpmpp_2m":  # of several steps: a sweep over moves isn't the chain's
        rolled = rollout(network, process, way.how.sampler, x, 6, added)
        end = rolled.states[-1].clone().requires_grad_()
        (last,) = torch.autograd.grad(score(end, PROMPTS).sum(), end)
        swept = sweep(network, chain_of(rolled), last, (), to_start=True).gradient
        assert (found - swept).abs().max() < 1e-6  # coefficients of a move in float32


@pytest.mark.slow
@pytest.mark.parametrize(("family", "make", "sampler"), FAMILIES)
def test_it_is_the_chains_gradient_of_every_kind_of_model(
    family: str, make: Any, sampler: dict[str, Any], tmp_path: Path
) -> None:
    """Of the tiny UNet and the flow skeleton, under guidance, in float32; and of coupled sampling, by walking back."""
    model = families.load(family, make(tmp_path / "model"))
    how = sampling_of({"sampler": sampler, "steps": 4, "guidance": 3.0})
    at = Starts(0, PROMPTS[:2], [0, 0], latent_shape(model, 64), torch.device("cpu"))
    way = chains(model, model.denoise, 64, how)(at.prompts)
    found, scores = {}, {}
    for p in (None, 0.93):
        moved = optimise.Optimise(1, 1.0, 0.9, 0.01, 0.0, "best", p)
        _, scores[p], found[p] = moved.ascent(way, at, score, at.noise())
    x = at.noise().requires_grad_()
    (expected,) = torch.autograd.grad(score(way.pictures(x, at.added()), at.prompts).sum(), x)
    assert (found[None] - expected).abs().max() <= 1e-4 * expected.abs().max()
    pair = coupled.sample(way.output, how.sampler.plan(model.process, 4), x, 0.93)
    both = sum(score(way.finished(x0), at.prompts).sum() for x0 in pair) / 2
    (expected,) = torch.autograd.grad(both, x)
    assert (found[0.93] - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_the_update_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """v = x / 2, Euler 1 -> .001 -> 0: x0 = (1 - .4995) (1 - .0005) x = c x. r = sum x0, so g = c, clipped to .1.

    x = (3, 4) -> (3.1, 4.1) * 5 / |(3.1, 4.1)|; then b = .9 * .1 + .1 = .19.
    """
    c = (1 - 0.4995) * (1 - 0.0005)
    half = replace(FLOW, output=lambda x, t: x / 2)
    at = Starts(0, ["a"], [0], (1, 1, 2), torch.device("cpu"))
    monkeypatch.setattr(Starts, "noise", lambda self, attempt=0: torch.tensor([[[[3.0, 4.0]]]]))
    moved = load("optimise", DOODL | {"iterations": 2, "clip": 0.1, "keep": "last"})
    found = moved(half, at, lambda pixels, prompts: pixels.sum(dim=(1, 2, 3)))
    first = [x * 5 / math.hypot(3.1, 4.1) for x in (3.1, 4.1)]
    second = [(x + 0.19) * 5 / math.hypot(*(y + 0.19 for y in first)) for x in first]
    assert found.pixels.flatten().tolist() == pytest.approx([c * x for x in second])
    assert found.first.item() == pytest.approx(c * 7) and found.at.item() == 2


def test_it_goes_up_and_keeps_the_best_or_the_last() -> None:
    found = rule("optimise")(FLOW, starts(), score)
    assert (found.kept > found.first).all() and found.at.tolist() == [3, 3, 3]

    def misleading(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Falls where its gradient says that it rises."""
        good = score(pixels, prompts)
        return good - 2 * good.detach()

    assert rule("optimise")(FLOW, starts(), misleading).at.tolist() == [0, 0, 0]
    last = load("optimise", DOODL | {"keep": "last"})(FLOW, starts(), misleading)
    assert last.at.tolist() == [3, 3, 3] and (last.kept < last.first).all()


def test_the_forwards_of_an_image() -> None:
    """20 steps under guidance: 40. The best of 46 costs what 15 iterations do: 3 * 15 + 1 plain images."""
    plain: dict[str, Any] = {"steps": 20, "guidance": 4.0, "rules": {}}
    assert forwards(plain) == 40 and forwards(plain | {"guidance": 1.0}) == 20
    doodl = {"optimise": DOODL | {"iterations": 15}}
    assert forwards(plain | {"rules": doodl}) == forwards(plain | {"rules": {"best_of": {"n": 46}}}) == 1840
    assert forwards(plain | {"rules": {"optimise": DOODL | {"iterations": 15, "coupled": 0.93}}}) == 3680
    assert forwards(plain | {"rules": doodl | {"mix_base": {"power": 1.0}}}) == 3680


class Counted(torch.autograd.Function):
    """The identity; its forwards and backwards are counted."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Counted.calls += 1
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        Counted.calls += 1
        return gradients[0]


@pytest.mark.parametrize("name", RULES)
def test_the_forwards_that_are_said_are_those_that_are_made(name: str) -> None:
    """A backward counts as a forward. Progress is told of every look."""
    Counted.calls, looks = 0, []
    way = replace(FLOW, output=lambda x, t: network(Counted.apply(x), t))
    rule(name)(way, starts(), score, lambda: looks.append(1))
    assert len(looks) == rule(name).looks == (5 if name == "best_of" else 4)
    kind = "best_of" if name == "best_of" else "optimise"
    assert Counted.calls == forwards(EULER | {"rules": {kind: RULES[name]}})


def test_what_is_said_of_a_gallery() -> None:
    def entry(first: float | None, kept: float | None, missing: int) -> Entry:
        rewarded = Rewarded(first=first, kept=kept, at=0, missing=missing)
        one = {"file": "0.png", "prompt": "a", "set": "test", "category": None, "prompt_index": 0, "seed": 0}
        return Entry(**one, sha256="0", rewarded=rewarded)

    rows = [entry(1.0, 2.0, 0), entry(2.0, 2.0, 1), entry(None, None, 4)]
    assert decided("toy", rows) == (
        "toy is higher for 1 of 2 images, mean 1.5 -> 2; 1 others have no score before or after; 5 attempts couldn't "
        "be scored"
    )
    assert decided("toy", rows[2:]).startswith("toy scores none of 1 images: they are those without the rule; 4 att")
