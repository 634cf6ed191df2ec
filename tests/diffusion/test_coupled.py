"""Coupled sampling: exact inversion, its gradient against autograd through the chain, what it refuses."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.diffusion import coupled
from diffalign.diffusion.coupled import Pair
from diffalign.diffusion.process import Diffusion, Flow, scaled_linear
from diffalign.diffusion.samplers.sampler import Plan, load
from diffalign.diffusion.sampling import Output, sample

DDIM = load({"name": "ddim", "eta": 0.0, "spacing": "leading"}).plan(
    Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon"), 20
)
FLOW = load({"name": "flow_euler"}).plan(Flow(1000, 3.0), 10)
SHAPE = (3, 4, 4, 4)


def network(dtype: torch.dtype) -> Output:
    """Two layers over all elements of a state, and the time."""
    draws = torch.Generator().manual_seed(0)
    first, second = (torch.randn(64, 64, generator=draws, dtype=torch.float64).to(dtype) / 8 for _ in range(2))

    def output(x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ first + t.view(-1, 1).to(x.dtype) / 1000)
        return (hidden @ second).view_as(x)

    return output


def noise(dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def reward(pair: Pair) -> Tensor:
    return pair.x.sin().sum() + 2 * pair.y.cos().sum()


@pytest.mark.parametrize("plan", [DDIM, FLOW])
@pytest.mark.parametrize(
    ("dtype", "p", "most"), [(torch.float64, 0.93, 1e-12), (torch.float64, 1.0, 1e-12), (torch.float32, 0.93, 1e-4)]
)
def test_it_is_walked_back_to_the_noise_and_its_gradient_is_autograds(
    plan: Plan, dtype: torch.dtype, p: float, most: float
) -> None:
    """Published: 4e-14 in float64 and 8e-6 in float32 at p = 0.93, 20 steps."""
    start, output = noise(dtype).requires_grad_(), network(dtype)
    pair = coupled.sample(output, plan, start, p)
    (expected,) = torch.autograd.grad(reward(pair), start, retain_graph=True)
    leaves = Pair(*(x.detach().requires_grad_() for x in pair))  # of the chain, y depends on x
    gradients = Pair(*torch.autograd.grad(reward(leaves), list(leaves)))
    before, found = coupled.noise_gradient(output, plan, Pair(*(x.detach() for x in pair)), gradients, p)
    for state in before:
        assert (state - plan.scale * start).abs().max() < most
    assert (found - expected).abs().max() < most * expected.abs().max()


def test_half_precision_is_refused() -> None:
    with pytest.raises(UserError, match="expected float32, got bfloat16: coupled sampling isn't invertible"):
        coupled.sample(network(torch.bfloat16), DDIM, noise(torch.bfloat16), 0.93)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UserError, match="expected float32, got autocast"):
        coupled.sample(network(torch.float32), DDIM, noise(torch.float32), 0.93)


def test_a_network_of_zeros_leaves_both_at_ddims_picture() -> None:
    """Then x and y are multiplied by the same numbers, and the mix of equal states is the state."""
    nothing: Callable[[Tensor, Tensor], Tensor] = lambda x, t: torch.zeros_like(x)  # noqa: E731
    start = noise(torch.float64)
    pair = coupled.sample(nothing, FLOW, start, 0.93)
    expected = sample(nothing, FLOW.process, load({"name": "flow_euler"}), start, 10, lambda step: start)
    assert torch.allclose(pair.x, expected) and torch.allclose(pair.y, expected)


def test_the_first_move_by_hand() -> None:
    """a = 1, b = -0.5, o(x) = x, p = 0.9, x = y = 1: x1 = .5, y1 = 1 - .25 = .75; x' = .525, y' = .7275."""
    found = coupled.forward(
        lambda x, t: x, Pair(torch.ones(1), torch.ones(1)), coupled.Move(1.0, 1.0, -0.5, False), 0.9
    )
    assert (found.x.item(), found.y.item()) == (pytest.approx(0.525), pytest.approx(0.7275))
    other = coupled.forward(lambda x, t: x, Pair(torch.ones(1), torch.ones(1)), coupled.Move(1.0, 1.0, -0.5, True), 0.9)
    assert (other.x.item(), other.y.item()) == (pytest.approx(0.725), pytest.approx(0.5225))
