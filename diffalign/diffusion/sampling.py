"""Sampling from a denoiser with classifier-free guidance, by the sampler of its process.

Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffalign.diffusion.process import Cond, Denoise, Process


def guided(denoise: Denoise, cond: Cond, uncond: Cond, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A network output (x_t, t) -> [B, C, h, w] with classifier-free guidance (Ho & Salimans 2022).

    out = out_uncond + scale * (out_cond - out_uncond), both from one forward of 2B; a scale of 1 skips the
    unconditional half. Each condition's tensors have the batch first.
    """
    if scale == 1:
        return lambda x_t, t: denoise(x_t, t, cond)
    both = {name: torch.cat([uncond[name], cond[name]]) for name in cond}

    def output(x_t: Tensor, t: Tensor) -> Tensor:
        out_uncond, out_cond = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return out_uncond + scale * (out_cond - out_uncond)

    return output


@torch.no_grad()
def sample(
    denoise: Denoise, process: Process, noise: Tensor, cond: Cond, uncond: Cond, steps: int, guidance: float
) -> Tensor:
    """Clean latents [B, C, h, w] from unit normal noise of that shape, in `steps` deterministic steps."""
    output = guided(denoise, cond, uncond, guidance)
    times = process.sampling_times(steps)
    x = noise
    for t, t_prev in zip(times, times[1:], strict=False):
        out = output(x, torch.full((len(x),), t, device=x.device)).float()
        x = process.step(out, x, t, t_prev)
    return x
