"""The processes' samplers against diffusers' schedulers, and guidance by hand."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from diffalign.diffusion.process import Diffusion, Flow, scaled_linear
from diffalign.diffusion.sampling import guided, sample

SD15 = {"beta_start": 0.00085, "beta_end": 0.012}


def network(x_t: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
    """Any smooth function of the input, the time and the condition."""
    return torch.tanh(x_t + cond["c"].view(-1, 1, 1, 1)) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


def conditions(count: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {"c": torch.linspace(-1, 1, count)}, {"c": torch.zeros(count)}


def test_ddim_is_diffusers() -> None:
    for prediction in ("epsilon", "v_prediction"):
        scheduler = DDIMScheduler(
            1000,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
            **SD15,
        )
        scheduler.set_timesteps(20)
        process = Diffusion(scaled_linear(**SD15, T=1000), prediction)
        assert process.sampling_times(20)[:-1] == scheduler.timesteps.tolist()
        noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        cond, uncond = conditions(3)
        x = noise
        for t in scheduler.timesteps:
            times = torch.full((3,), int(t))
            out_uncond, out_cond = network(x, times, uncond), network(x, times, cond)
            x = scheduler.step(out_uncond + 4 * (out_cond - out_uncond), t, x).prev_sample
        ours = sample(network, process, noise, cond, uncond, steps=20, guidance=4)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_euler_is_diffusers() -> None:
    """Bit for bit: the times, and the pictures."""
    for shift, steps in ((3.0, 28), (1.0, 7)):
        scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
        scheduler.set_timesteps(steps)
        process = Flow(1000, shift)
        assert process.sampling_times(steps) == scheduler.sigmas.tolist()
        noise = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        cond, uncond = conditions(3)
        x = noise
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
            times = torch.full((3,), sigma.item())
            assert torch.equal(times * 1000, t.expand(3))  # what the network is told
            out_uncond, out_cond = network(x, times, uncond), network(x, times, cond)
            x = scheduler.step(out_uncond + 7 * (out_cond - out_uncond), t, x).prev_sample
        ours = sample(network, process, noise, cond, uncond, steps, guidance=7)
        assert torch.equal(ours, x)


def test_more_ddim_steps_than_its_spacing_has() -> None:
    process = Diffusion(scaled_linear(**SD15, T=1000), "epsilon")
    with pytest.raises(ValueError, match=r"expected 1\.\.500.*got 501"):
        process.sampling_times(501)


def test_guidance() -> None:
    cond, uncond = conditions(2)
    x, t = torch.ones(2, 4, 2, 2), torch.tensor([3, 3])
    a, b = network(x, t, cond), network(x, t, uncond)
    torch.testing.assert_close(guided(network, cond, uncond, 3)(x, t), b + 3 * (a - b))
    assert torch.equal(guided(network, cond, uncond, 1)(x, t), a)
