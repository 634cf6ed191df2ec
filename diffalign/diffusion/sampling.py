"""Samples from a network by a sampler, with guidance; `rollouts` keeps the whole trajectory.

Whether gradients are kept is the caller's choice (`torch.no_grad`).
Shapes: B batch, S steps, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffalign.diffusion.process import Cond, Denoise, Process
from diffalign.diffusion.samplers.sampler import Plan, Sampler

Output = Callable[[Tensor, Tensor], Tensor]
"""A network with its condition: (x_t [B, C, h, w], t [B]) -> [B, C, h, w]."""
StepNoise = Callable[[int], Tensor]
"""Unit normal noise [B, C, h, w] of a step 0..S-1, on the latents' device."""


def guided(denoise: Denoise, cond: Cond, uncond: Cond, scale: float, train_unconditional: bool = True) -> Output:
    """Returns a network's output with classifier-free guidance (Ho & Salimans 2022).

    out = out_uncond + scale * (out_cond - out_uncond), both from one forward of 2B; a scale of 1 skips the
    unconditional half. Unless `train_unconditional` that half has no gradient: it's a forward of its own, without a
    graph. Each condition's tensors have the batch first.
    """
    if scale == 1:
        return lambda x_t, t: denoise(x_t, t, cond)
    both = {name: torch.cat([uncond[name], cond[name]]) for name in cond}

    def halves(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if train_unconditional:
            out_uncond, out_cond = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
            return out_uncond, out_cond
        with torch.no_grad():
            out_uncond = denoise(x_t, t, uncond)
        return out_uncond, denoise(x_t, t, cond)

    def output(x_t: Tensor, t: Tensor) -> Tensor:
        out_uncond, out_cond = halves(x_t, t)
        return out_uncond + scale * (out_cond - out_uncond)

    return output


def sample(
    output: Output, process: Process, sampler: Sampler, noise: Tensor, steps: int, step_noise: StepNoise
) -> Tensor:
    """Returns clean latents [B, C, h, w] from unit normal noise of that shape, in `steps` steps.

    `step_noise` is asked only by samplers that add noise.
    """
    x0 = noise
    for _, _, state in walk(output, sampler.plan(process, steps), noise, step_noise, least=0.0):
        x0 = state
    return x0


def walk(
    output: Output, plan: Plan, noise: Tensor, step_noise: StepNoise, least: float
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yields (mean, standard deviation, x at t_prev) of each move; rows with a deviation below `least` add no noise."""
    x, solve = plan.scale * noise, plan.solver()
    for i, (t, t_prev) in enumerate(plan.moves):
        out = output(x, torch.full((len(x),), t, device=x.device)).float()
        mean, std = solve(out, x, t, t_prev)
        if std is None:
            x = mean
        else:
            added = std.where(std >= least, torch.zeros_like(std)).view(-1, 1, 1, 1)
            x = mean + added * step_noise(i)
        yield mean, std, x
