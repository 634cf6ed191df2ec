"""Reward gradients by the sweep: values by hand, equal to autograd through the chain, on every family's network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffalign.diffusion.process import CLEAN, Diffusion, Flow, Process, scaled_linear, transition
from diffalign.diffusion.reward_gradients import (
    Chain,
    Swept,
    chain_of,
    estimated,
    noised,
    pulled,
    renoised,
    sweep,
    times,
)
from diffalign.diffusion.rollouts import rollout
from diffalign.diffusion.samplers.sampler import load
from diffalign.diffusion.sampling import Output, guided
from diffalign.generation.pipeline import no_noise
from diffalign.models import family as families
from tests.helpers.project import REPO
from tests.helpers.tiny_families import make_sd3, make_sdxl

SHAPE = (2, 4, 4, 4)
PLAIN = {"name": "ddim", "eta": 0.0, "spacing": "leading"}


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def toy() -> Chain:
    """v = w x with w = .5 by Euler's method, t 1, .5, 0, from x = 2: 2, 1.5, 1.125. The reward is the last state."""
    states = torch.tensor([2.0, 1.5, 1.125], dtype=torch.float64).view(3, 1, 1, 1, 1)
    return Chain(Flow(1000, 1.0), [(1.0, 0.5), (0.5, 0.0)], 0.0, states)


def half(x: Tensor, t: Tensor) -> Tensor:
    return 0.5 * x


def slope(swept: Swept) -> float:
    """dr/dw of the toy: do/dw is x."""
    return sum((row.pull * row.x_t).sum().item() for row in swept.rows)


ONE = torch.ones(1, 1, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("trained", "through", "expected"),
    [
        ((0, 1), "exact", -1.5),  # x_0 = 2 (1 - w / 2)^2, whose derivative is -2 (1 - w / 2)
        ((1,), "exact", -0.75),  # the last move: -1/2 x 1.5
        ((0, 1), "straight", -1.75),  # -1/2 x 1.5 - 1/2 x 2: the first move's share isn't multiplied by 3/4
    ],
)
def test_a_toys_gradients_by_hand(trained: tuple[int, ...], through: Any, expected: float) -> None:
    assert slope(sweep(half, toy(), ONE, trained, through)) == pytest.approx(expected, abs=1e-15)


def test_a_toys_noise_noised_again_and_estimate_by_hand() -> None:
    """The noise's gradient is (3/4)^2. Noised by eps 1 to t = .5 it's 1.0625, a move from there has -1/2 of that.

    At t = 1 the estimate is 2 - 1 x 1 = 1, and its gradient is -2.
    """
    assert sweep(half, toy(), ONE, (), to_start=True).gradient.item() == pytest.approx(0.5625, abs=1e-15)
    again = renoised(half, toy(), ONE, 1)
    assert again.states.flatten().tolist() == pytest.approx([1.0625, 1.0625 * 0.75])
    assert slope(sweep(half, again, ONE, (0,))) == pytest.approx(-0.53125, abs=1e-15)
    seen = estimated(half, toy(), 1)
    assert seen.states.flatten().tolist() == [2.0, 1.0] and seen.moves == [(1.0, 0.0)]
    assert slope(sweep(half, seen, ONE, (0,))) == pytest.approx(-2, abs=1e-15)


class Net(nn.Module):
    """Two layers that mix channels and places, told the time and a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        hidden = self.first(x) + (cond["c"] + t.to(x) / 1000).view(-1, 1, 1, 1)
        return self.second(torch.tanh(hidden))


DIFFUSION = scaled_linear(0.00085, 0.012, 1000)
PROCESSES: dict[str, tuple[Process, list[tuple[float, float]], float]] = {
    "epsilon": (Diffusion(DIFFUSION, "epsilon"), [(t, t - 125) for t in range(876, 0, -125)], 0.0),
    "v": (Diffusion(DIFFUSION, "v_prediction"), [(t, t - 125) for t in range(876, 0, -125)], 0.0),
    "noisy": (Diffusion(DIFFUSION, "epsilon"), [(t, t - 125) for t in range(876, 0, -125)], 1.0),
    "flow": (Flow(1000, 3.0), [(i / 8, (i - 1) / 8) for i in range(8, 0, -1)], 0.0),
}
"""With eight moves each, and the level of the noise that they add."""


def small() -> tuple[Net, Output]:
    """A network in float64, and itself with guidance."""
    net = Net().double()
    cond, uncond = {"c": torch.tensor([0.5, -0.5]).double()}, {"c": torch.zeros(2).double()}
    return net, guided(net, cond, uncond, 3.0)


def whole_graph(output: Output, begun: Chain, start: Tensor, first: int, straight: bool) -> Tensor:
    """The states [S + 1, B, C, h, w] of the chain's moves in one graph, for autograd; those before `first` are data."""
    states = [start]
    for i, move in enumerate(begun.moves):
        x = states[-1].detach() if i == first > 0 else states[-1]
        t, t_prev = times(move, x)
        mean, s = transition(begun.process, output(x.detach() if straight else x, t), x, t, t_prev, begun.noise)
        states.append(mean + s.view(-1, 1, 1, 1) * normal(100 + i) if begun.noise else mean)
    return torch.stack(states)


def reward(x0: Tensor) -> Tensor:
    return (torch.sin(x0) * normal(7, tuple(x0.shape)).to(x0)).sum()


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("through", ["exact", "straight"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_sweep_is_autograd_through_the_last_moves(name: str, through: Any, count: int) -> None:
    """DRaFT-K's gradient of the weights, with guidance, to 1e-12; straight: with inputs that are data."""
    net, output = small()
    process, moves, noise = PROCESSES[name]
    begun = Chain(process, moves, noise, normal(0)[None])
    states = whole_graph(output, begun, normal(0), 8 - count, through == "straight")
    expected = torch.autograd.grad(reward(states[-1]), list(net.parameters()))
    rolled = Chain(process, moves, noise, states.detach())
    end = rolled.states[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(end), end)
    swept = sweep(output, rolled, gradient, range(8 - count, 8), through)
    assert len(swept.rows) == count and not any(row.pull.requires_grad for row in swept.rows)
    loss = sum(pulled(output(row.x_t, row.t), row.pull).sum() for row in swept.rows)
    assert isinstance(loss, Tensor) and loss.item() == 0
    for found, wanted in zip(torch.autograd.grad(loss, list(net.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_noises_gradient_is_autograds(name: str) -> None:
    """DOODL's: of the first state, through all moves; the moves that train don't change it."""
    _, output = small()
    process, moves, noise = PROCESSES[name]
    start = normal(0).requires_grad_()
    states = whole_graph(output, Chain(process, moves, noise, start[None]), start, 0, False)
    (expected,) = torch.autograd.grad(reward(states[-1]), start)
    rolled = Chain(process, moves, noise, states.detach())
    end = rolled.states[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(end), end)
    found = [sweep(output, rolled, gradient, trained, to_start=True) for trained in ((), (2, 7))]
    assert [len(each.rows) for each in found] == [0, 2]
    for each in found:
        torch.testing.assert_close(each.gradient, expected, rtol=1e-12, atol=1e-12)


def test_an_estimate_is_the_process_own_and_noising_meets_every_time() -> None:
    """x0 as `split` computes it; at a whole timestep `noised` is the process's, between two it lies between theirs."""
    process = Diffusion(DIFFUSION, "v_prediction")
    _, output = small()
    chain = Chain(process, [(501, 481), (481, 461)], 0.0, torch.stack([normal(i) for i in range(3)]))
    seen = estimated(output, chain, 2)
    t = torch.tensor([481, 481])
    x0, _ = process.split(output(normal(1), t), normal(1), t)
    torch.testing.assert_close(seen.states[-1], x0, rtol=1e-6, atol=1e-6)
    assert seen.moves == [(501, 481), (481, CLEAN)] and torch.equal(seen.states[:2], chain.states[:2])
    low, high = (process.noised(normal(0), normal(1), torch.tensor([t, t])) for t in (480, 481))
    torch.testing.assert_close(noised(process, normal(0), normal(1), 480), low, rtol=1e-6, atol=1e-6)
    between = noised(process, normal(0), normal(1), 480.5)
    torch.testing.assert_close(between, (low + high) / 2, rtol=1e-4, atol=1e-4)


def tiny_sd(folder: Path) -> Path:
    return REPO / "assets" / "tiny-sd"


MODELS: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any]]] = {
    "tiny-sd": ("sd15", tiny_sd, PLAIN),
    "sdxl": ("sdxl", make_sdxl, {"name": "euler", "spacing": "linspace"}),
    "sd3": ("sd3", make_sd3, {"name": "flow_euler"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_familys_network_in_float32(name: str, tmp_path: Path) -> None:
    """A real rollout with guidance, gradient checkpointing: the weights' and the noise's gradients to 1e-4."""
    family, make, settings = MODELS[name]
    folder = make(tmp_path)
    model = families.load(family, folder, ("text", "denoiser"))
    shape = (2, *families.find(family).check(folder, None).latent(64))
    square = {k: v[None].expand(2, *v.shape) for k, v in model.image_cond((64, 64), (0, 0), (64, 64)).items()}
    cond = model.encode_prompt(["a red circle", "two blue squares"]) | square
    uncond = {k: v.expand(2, *v.shape[1:]) for k, v in model.unconditional().items()} | square
    weights = {n: p.requires_grad_() for n, p in model.denoiser.named_parameters() if p.dim() > 1}
    output = guided(model.denoise, cond, uncond, 3.0)
    with torch.no_grad():
        rolled = chain_of(rollout(output, model.process, load(settings), normal(0, shape).float(), 3, no_noise))
    start = rolled.states[0].clone().requires_grad_()
    states = whole_graph(output, rolled, start, 0, False)
    torch.testing.assert_close(states.detach(), rolled.states, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(reward(states[-1]), [start, *weights.values()], allow_unused=True)
    end = rolled.states[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(end), end)
    model.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    swept = sweep(output, rolled, gradient, range(3), to_start=True)
    loss = torch.stack([pulled(output(row.x_t, row.t), row.pull).sum() for row in swept.rows]).sum()
    found = [swept.gradient, *torch.autograd.grad(loss, list(weights.values()), allow_unused=True)]
    scale = max(each.norm() for each in wanted[1:] if each is not None)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert (mine - theirs).norm() <= 1e-4 * max(theirs.norm(), 1e-3 * scale)
