"""Euler's method in sigma / alpha (Karras et al. 2022, arXiv 2206.00364, algorithm 1 without its correction)."""

from dataclasses import dataclass, replace

import torch

from diffalign.diffusion.process import CLEAN, Diffusion, Process
from diffalign.diffusion.samplers import spacing
from diffalign.diffusion.samplers.sampler import Move, Plan, by_coefficients, diffusion
from diffalign.diffusion.samplers.spacing import Spacing

LEAST_ALPHA_BAR = 2.0**-24
"""Replaces an alpha_bar of 0, so that sigma / alpha is finite; the stock schedulers' value."""


@dataclass(frozen=True)
class Euler:
    """Equals diffusers' EulerDiscreteScheduler with steps_offset 1.

    A step of Euler's method on x / alpha is a step of DDIM on x; what differs from DDIM are the times (spacing
    linspace doesn't round them) and that the last step ends at an image without any noise.
    """

    spacing: Spacing

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps between successive times, down to a clean image."""
        return sigma_plan(diffusion(process, "euler"), self.spacing, steps, noise=0.0)


def sigma_plan(process: Diffusion, spaced: Spacing, steps: int, noise: float) -> Plan:
    """Returns the plan of a one-step sampler in sigma / alpha, which ends at `CLEAN`."""
    process = finite(process)
    if spaced == "leading":
        times: list[float] = list(spacing.leading(process.T, steps, steps))
    else:
        times = list(spacing.trailing(process.T, steps)) if spaced == "trailing" else spacing.linspace(process.T, steps)
    _, sigma = process.levels(torch.tensor(times[:1]))
    scale = 1.0 if spaced == "leading" else sigma.item()
    return Plan(process, to_clean(times), noise, lambda: by_coefficients(process, noise), scale)


def finite(process: Diffusion) -> Diffusion:
    """Returns the process with a finite sigma / alpha at every timestep."""
    return replace(process, alpha_bar=process.alpha_bar.clamp(min=LEAST_ALPHA_BAR))


def to_clean(times: list[float]) -> list[Move]:
    """Returns the moves through falling times, and from the last to a clean image."""
    return list(zip(times, [*times[1:], CLEAN], strict=True))


build = Euler
