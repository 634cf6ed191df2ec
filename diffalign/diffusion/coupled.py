"""Samples two coupled states along a chain that can be walked back exactly (EDICT, Wallace et al. 2022).

arXiv 2211.12446, eq. 12 to 15. DOODL takes the gradient of a whole chain by it, in the memory of one step: states are
computed again from the picture instead of being kept. Of a move x' = a x + b o(x) it makes, for two states x and y,

    x1 = a x + b o(y),  y1 = a y + b o(x1),  x' = p x1 + (1 - p) y1,  y' = p y1 + (1 - p) x'

where x and y change places in the first two at every other move. The mixing p keeps the two together; dividing by it on
the way back multiplies rounding errors, so that nothing below float32 will do.
Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.diffusion.samplers.sampler import Plan
from diffalign.diffusion.sampling import Output

PRECISIONS = (torch.float32, torch.float64)


class Pair(NamedTuple):
    """The two states, or gradients with respect to them, each [B, C, h, w]."""

    x: Tensor
    y: Tensor

    @property
    def swapped(self) -> "Pair":
        """Returns the pair the other way round."""
        return Pair(self.y, self.x)


class Move(NamedTuple):
    """One move of the plan: the time that the network is told, the coefficients, whether y goes first."""

    t: float
    a: float
    b: float
    swaps: bool


def sample(output: Output, plan: Plan, noise: Tensor, p: float) -> Pair:
    """Returns two clean latents, each [B, C, h, w], from unit normal noise of that shape; the first is the picture.

    UserError below float32, or under autocast.
    """
    check_precision(noise)
    pair = Pair(plan.scale * noise, plan.scale * noise)
    for move in moves(plan):
        pair = forward(output, pair, move, p)
    return pair


def forward(output: Output, pair: Pair, move: Move, p: float) -> Pair:
    """Returns the pair after a move."""
    x, y = pair.swapped if move.swaps else pair
    x = move.a * x + move.b * asked(output, y, move)
    y = move.a * y + move.b * asked(output, x, move)
    if move.swaps:
        x, y = y, x
    x = p * x + (1 - p) * y
    return Pair(x, p * y + (1 - p) * x)


def noise_gradient(output: Output, plan: Plan, pair: Pair, gradients: Pair, p: float) -> tuple[Pair, Tensor]:
    """Walks back from `sample`'s result: returns the pair it began from, and the gradient of a function of the result.

    `gradients` are the function's with respect to the two latents; returned is the one with respect to the unit noise,
    [B, C, h, w], both states' together. Each move asks the network twice, and its gradient twice.
    """
    check_precision(pair.x)
    for move in reversed(list(moves(plan))):
        pair, gradients = backward(output, pair, gradients, move, p)
    return pair, plan.scale * (gradients.x + gradients.y)


def backward(output: Output, pair: Pair, gradients: Pair, move: Move, p: float) -> tuple[Pair, Pair]:
    """Returns the pair before a move, and the gradients with respect to it."""
    y = (pair.y - (1 - p) * pair.x) / p
    x = (pair.x - (1 - p) * y) / p
    grad_x, grad_y = gradients
    grad_x, grad_y = grad_x + (1 - p) * grad_y, p * grad_y
    grad_x, grad_y = p * grad_x, grad_y + (1 - p) * grad_x
    if move.swaps:
        x, y, grad_x, grad_y = y, x, grad_y, grad_x
    of_x, pulled = linearised(output, x, move, grad_y)
    y, grad_x, grad_y = (y - move.b * of_x) / move.a, grad_x + move.b * pulled, move.a * grad_y
    of_y, pulled = linearised(output, y, move, grad_x)
    x, grad_y, grad_x = (x - move.b * of_y) / move.a, grad_y + move.b * pulled, move.a * grad_x
    before, pulled_back = Pair(x, y), Pair(grad_x, grad_y)
    return (before.swapped, pulled_back.swapped) if move.swaps else (before, pulled_back)


def linearised(output: Output, x: Tensor, move: Move, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the network's output at x, and `gradient` with respect to it pulled back to x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        found = asked(output, leaf, move)
        (pulled,) = torch.autograd.grad(found, leaf, gradient)
    return found.detach(), pulled


def asked(output: Output, x: Tensor, move: Move) -> Tensor:
    """Returns the network's output at a state, in the state's dtype."""
    return output(x, torch.full((len(x),), move.t, device=x.device)).to(x.dtype)


def moves(plan: Plan) -> Iterator[Move]:
    """Yields a plan's moves without noise."""
    for i, (t, t_prev) in enumerate(plan.moves):
        a, b, _ = plan.process.coefficients(torch.tensor([t]), torch.tensor([t_prev]), 0.0)
        yield Move(t, a.item(), b.item(), i % 2 == 1)


def check_precision(x: Tensor) -> None:
    """Raises UserError where a chain couldn't be walked back: in half precision, or under autocast."""
    automatic = torch.is_autocast_enabled(x.device.type)
    if x.dtype not in PRECISIONS or automatic:
        found = "autocast" if automatic else str(x.dtype).removeprefix("torch.")
        raise UserError(
            f"optimise.coupled: expected float32, got {found}: coupled sampling isn't invertible in it. Set coupled: "
            "null, which needs no inversion."
        )
