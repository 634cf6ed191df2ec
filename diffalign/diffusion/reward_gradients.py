"""Gradients of a reward through the moves that made a picture, by a sweep back over their states.

Every move is linear in its state and the network's output: x' = a x + b o(x) + s z (`process.coefficients`). With
G = dr/dx' at a move's end, the network's weights receive (do/dw)^T b G there, and the move's beginning receives
a G + b (do/dx)^T G. So a chain that was rolled out without gradients is differentiated exactly, one move at a time: the
memory is one move's, and no graph holds two forwards. DRaFT, DRaFT-K, DRaFT-LV (Clark et al. 2023, arXiv 2309.17400),
AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739), ReFL (Xu et al. 2023, arXiv 2304.05977), DRTune (Wu et al. 2024,
arXiv 2405.00760) and DOODL (Wallace et al. 2023, arXiv 2303.13703) differ in which moves train, in whether gradients go
through the network's input, and in what the reward sees.

Exact only with the weights that rolled out: one update a rollout.
Shapes: B pictures, S moves, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffalign.diffusion.policy_gradient import wide
from diffalign.diffusion.process import CLEAN, Diffusion, Process, broadcast, transition
from diffalign.diffusion.rollouts import Trajectory
from diffalign.diffusion.samplers.sampler import Move
from diffalign.diffusion.sampling import Output

Through = Literal["exact", "straight"]
"""exact: gradients go through the network's input; straight: the input is data, G becomes a G (DRTune)."""


@dataclass(frozen=True)
class Chain:
    """The moves that lead from a state to what a reward sees."""

    process: Process
    moves: Sequence[Move]
    noise: float
    """The noise level that the moves' coefficients are of."""
    states: Tensor
    """[S + 1, B, C, h, w]: where each move began, and where the last one ended."""


@dataclass(frozen=True)
class Row:
    """A move that trains: its weights' gradient is that of sum(pull * output(x_t, t))."""

    x_t: Tensor
    """[B, C, h, w]."""
    t: Tensor
    """[B]."""
    pull: Tensor
    """b G [B, C, h, w]."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    rows: list[Row]
    """The moves that train, the latest first."""
    gradient: Tensor
    """The gradient [B, C, h, w] at the earliest state that the sweep came to."""


def chain_of(trajectory: Trajectory) -> Chain:
    """Returns a rollout's moves; they must be of a sampler of one step (`sampler.by_coefficients` or `exact`)."""
    return Chain(trajectory.process, trajectory.moves, trajectory.noise, trajectory.states)


def at_end(score: Callable[[Tensor], Tensor], x0: Tensor, hinge: float | None) -> tuple[Tensor, Tensor]:
    """Returns losses [B] and their gradient [B, C, h, w] at latents x0; `score` gives rewards [B], to be maximised.

    A loss is -r, or with a hinge relu(hinge - r), in float64. A picture without a reward (NaN), or whose gradient isn't
    finite, has the loss NaN and the gradient 0.
    """
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_()
        rewards = score(x0).double()
        losses = -rewards if hinge is None else (hinge - rewards).relu()
        known = losses.isfinite()
        (gradient,) = torch.autograd.grad(losses.where(known, 0.0).sum(), x0)
    known = known & gradient.flatten(1).isfinite().all(1)
    return losses.detach().where(known, torch.nan), gradient.where(known.view(-1, 1, 1, 1), 0.0)


def sweep(
    output: Output,
    chain: Chain,
    gradient: Tensor,
    trained: Collection[int],
    through: Through = "exact",
    to_start: bool = False,
) -> Swept:
    """Sweeps dr/dx [B, C, h, w], the reward's gradient at a chain's last state, back over its moves.

    `trained`: the moves 0..S-1 that train. Moves before the first of them are treated as data, as truncation does.
    `to_start`: the sweep goes on to the first state, whose gradient is the result's (DOODL's, of the initial noise).
    The network is called once for each move that gradients go through, with gradients for its input alone: forwards
    that are spread over processes mustn't exchange gradients meanwhile.
    """
    rows: list[Row] = []
    last = 0 if to_start else min(trained, default=len(chain.moves))
    for move in reversed(range(last, len(chain.moves))):
        x = chain.states[move]
        t, t_prev = times(chain.moves[move], x)
        a, b, _ = chain.process.coefficients(t, t_prev, chain.noise)
        pull = broadcast(b, x) * gradient
        if move in trained:
            rows.append(Row(x, t, pull))
        if move > last or to_start:
            gradient = broadcast(a, x) * gradient
            if through == "exact":
                gradient = gradient + through_network(output, x, t, pull)
    return Swept(rows, gradient)


def through_network(output: Output, x_t: Tensor, t: Tensor, pull: Tensor) -> Tensor:
    """Returns the gradient [B, C, h, w] at x_t of sum(pull * output(x_t, t))."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        found = torch.autograd.grad(wide(output(x_t, t)), x_t, pull)
    return found[0]


def pulled(output: Tensor, pull: Tensor) -> Tensor:
    """Returns zeros [B] whose gradient is that of the chain: sum over C, h, w of pull * output, without its value.

    The value of <pull, output> says nothing; a loss is this plus what it should read.
    """
    product = (pull.detach() * wide(output)).flatten(1).sum(1)
    return product - product.detach()


@torch.no_grad()
def estimated(output: Output, chain: Chain, stop: int) -> Chain:
    """Returns a chain's first `stop` moves, the last of which leaps to the estimate of the clean image.

    One forward; of a chain without noise. The reward of the estimate is ReFL's and DRTune's; with `stop` 1 it's that
    of pure noise.
    """
    process, x = chain.process, chain.states[stop - 1]
    leap = (chain.moves[stop - 1][0], CLEAN if isinstance(process, Diffusion) else 0.0)
    end = moved(output, process, leap, x)
    return Chain(process, [*chain.moves[: stop - 1], leap], 0.0, torch.cat([chain.states[:stop], end[None]]))


@torch.no_grad()
def renoised(output: Output, chain: Chain, eps: Tensor, count: int) -> Chain:
    """Returns the last `count` moves, begun from the end [B, C, h, w] noised again by unit normal eps of its shape.

    `count` forwards; of a chain without noise. With `count` 1 it's a draw of DRaFT-LV's.
    """
    moves = chain.moves[len(chain.moves) - count :]
    states = [noised(chain.process, chain.states[-1], eps, moves[0][0])]
    for move in moves:
        states.append(moved(output, chain.process, move, states[-1]))
    return Chain(chain.process, moves, 0.0, torch.stack(states))


def moved(output: Output, process: Process, move: Move, x: Tensor) -> Tensor:
    """Returns where a move without noise takes x [B, C, h, w]."""
    t, t_prev = times(move, x)
    return transition(process, wide(output(x, t)), x, t, t_prev, 0.0)[0]


def noised(process: Process, x0: Tensor, eps: Tensor, t: float) -> Tensor:
    """Returns x_t [B, C, h, w] from clean latents and noise at a sampler's time, be it between two timesteps."""
    at = torch.full((len(x0),), t, device=x0.device)
    if not isinstance(process, Diffusion):
        return process.noised(x0, eps, at)
    alpha, sigma = process.levels(at)
    return broadcast(alpha, x0) * x0 + broadcast(sigma, x0) * eps


def times(move: Move, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a move's t and t_prev for x [B, C, h, w], each [B], as samplers give t to the network."""
    t, t_prev = (torch.full((len(x),), time, device=x.device) for time in move)
    return t, t_prev
