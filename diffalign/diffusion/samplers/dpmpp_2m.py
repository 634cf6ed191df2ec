"""DPM-Solver++ of second order, multistep (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.diffusion.process import CLEAN, Diffusion, Process, broadcast
from diffalign.diffusion.samplers import spacing
from diffalign.diffusion.samplers.euler import finite, to_clean
from diffalign.diffusion.samplers.sampler import Plan, Solver, diffusion
from diffalign.diffusion.samplers.spacing import Spacing


@dataclass(frozen=True)
class DPMpp2M:
    """Equals diffusers' DPMSolverMultistepScheduler with steps_offset 1 and otherwise its default settings."""

    spacing: Spacing

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps between successive times; the first and the last, to a clean image, are of first order."""
        process = finite(diffusion(process, "dpmpp_2m"))
        T = process.T
        if self.spacing == "leading":
            times = spacing.leading(T, steps, steps + 1)
        else:
            times = spacing.trailing(T, steps) if self.spacing == "trailing" else spacing.rounded(T, steps + 1)[:-1]
        return Plan(process, to_clean(list(times)), 0.0, lambda: second_order(process))


def second_order(process: Diffusion) -> Solver:
    """Returns a solver that extrapolates x0 by the step before: with lambda = log(alpha / sigma), to the midpoint.

    x' = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) D, D = x0 + (x0 - x0_before) (lambda' - lambda) /
    (2 (lambda - lambda_before)).
    """
    before: list[tuple[Tensor, Tensor]] = []  # (lambda [B], x0) of the last step

    def solve(output: Tensor, x: Tensor, t: float, t_prev: float) -> tuple[Tensor, None]:
        (alpha, sigma), (alpha_prev, sigma_prev) = (
            process.levels(torch.full((len(x),), time, device=x.device)) for time in (t, t_prev)
        )
        now, then = torch.log(alpha / sigma), torch.log(alpha_prev / sigma_prev)
        x0 = estimate = clean(process, output, x, alpha, sigma)
        if before and t_prev != CLEAN:
            last, x0_before = before.pop()
            x0 = estimate + broadcast((then - now) / (2 * (now - last)), x) * (estimate - x0_before)
        before[:] = [(now, estimate)]
        kept = sigma_prev / sigma
        return broadcast(kept, x) * x + broadcast(alpha_prev - alpha * kept, x) * x0, None

    return solve


def clean(process: Diffusion, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Returns x0 [B, C, h, w] that a network output at x stands for; alpha and sigma are [B]."""
    if process.prediction == "epsilon":
        return (x - broadcast(sigma, x) * output) / broadcast(alpha, x)
    return broadcast(alpha, x) * x - broadcast(sigma, x) * output


build = DPMpp2M
