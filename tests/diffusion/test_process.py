"""The processes against diffusers' schedulers, and their own inverses."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diffalign.diffusion.process import Diffusion, Flow, scaled_linear

SD15 = {"beta_start": 0.00085, "beta_end": 0.012}


def process(prediction: str = "epsilon") -> Diffusion:
    return Diffusion(scaled_linear(**SD15, T=1000), prediction)


def scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(1000, beta_schedule="scaled_linear", prediction_type=prediction, **SD15)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 4, 8, 8, generator=rng) for _ in range(2))
    return x0, eps, torch.tensor([0, 1, 500, 998, 999])


def test_schedule_is_stable_diffusions() -> None:
    torch.testing.assert_close(process().alpha_bar, scheduler().alphas_cumprod, rtol=0, atol=0)


def test_a_share_of_the_schedule_as_timesteps() -> None:
    spans = {(0, 1): range(1000), (0.4, 1): range(400, 1000), (0, 0.25): range(250), (1, 1): range(999, 1000)}
    assert {shares: process().span(shares) for shares in spans} == spans


def test_noising_is_the_schedulers() -> None:
    x0, eps, t = tensors()
    torch.testing.assert_close(process().noised(x0, eps, t), scheduler().add_noise(x0, eps, t))


def test_v_target_is_the_schedulers() -> None:
    x0, eps, t = tensors()
    expected = scheduler("v_prediction").get_velocity(x0, eps, t)
    torch.testing.assert_close(process("v_prediction").target(x0, eps, t), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_back_x0_and_eps(prediction: str) -> None:
    alpha_bar = scaled_linear(**SD15, T=1000).double()
    exact = Diffusion(alpha_bar, prediction)
    x0, eps, t = (value.double() if value.is_floating_point() else value for value in tensors())
    x_t = exact.noised(x0, eps, t)
    x0_back, eps_back = exact.split(exact.target(x0, eps, t), x_t, t)
    torch.testing.assert_close(x0_back, x0)
    torch.testing.assert_close(eps_back, eps)


def test_a_share_of_the_schedule_as_a_time() -> None:
    assert [process().time(share) for share in (0, 0.0005, 0.4, 0.99999, 1.0)] == [0, 0, 400, 999, 999]
    assert [Flow(1000, 3.0).time(share) for share in (0.0, 0.25, 0.999)] == [0.0, 0.25, 0.999]
    assert Flow(1000, 3.0).span((0.4, 0.5)) is None


def test_flow_noising_is_the_schedulers() -> None:
    x0, eps, _ = tensors()
    euler = FlowMatchEulerDiscreteScheduler(1000, shift=3.0)
    index = [0, 100, 500, 900, 999]
    expected = euler.scale_noise(x0, euler.timesteps[index], eps)
    torch.testing.assert_close(Flow(1000, 3.0).noised(x0, eps, euler.sigmas[index]), expected)


def test_flow_by_hand() -> None:
    """x0 = 2, eps = -2, t = 1/4: x_t = 3/4 * 2 - 1/4 * 2 = 1, v = -2 - 2 = -4; back, x0 = 1 + 1/4 * 4 = 2.

    With a wrong v of -8, x0 = 1 + 2 = 3.
    """
    flow = Flow(1000, 3.0)
    x0, eps, t = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -2.0), torch.tensor([0.25])
    x_t, v = flow.noised(x0, eps, t), flow.target(x0, eps, t)
    assert (x_t.item(), v.item()) == (1.0, -4.0)
    # Along the straight line, to x0 in one step.
    assert [flow.step(output, x_t, 0.25, 0.0).item() for output in (v, 2 * v)] == [2.0, 3.0]
