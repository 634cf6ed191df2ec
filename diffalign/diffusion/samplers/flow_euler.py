"""Euler's method along a rectified flow (Esser et al. 2024, arXiv 2403.03206), and the times of all flow samplers."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from diffalign.core.errors import UserError
from diffalign.diffusion.process import Flow, FlowNoise, Process
from diffalign.diffusion.samplers.sampler import Move, Plan, by_coefficients, exact, flow


@dataclass(frozen=True)
class FlowEuler:
    """Equals diffusers' FlowMatchEulerDiscreteScheduler, bit for bit."""

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps between shifted times, from 1 to 0."""
        process = flow(process, "flow_euler")
        return Plan(process, moves(process, steps), 0.0, lambda: exact(process))


def noisy_plan(process: Process, form: FlowNoise, noise: float, steps: int) -> Plan:
    """Returns the plan of a stochastic flow sampler, at Euler's times."""
    process = replace(flow(process, f"flow_{form}"), form=form)
    return Plan(process, moves(process, steps), noise, lambda: by_coefficients(process, noise))


def moves(process: Flow, steps: int) -> list[Move]:
    """Returns the moves through the float32 times of diffusers' FlowMatchEulerDiscreteScheduler, from 1 to 0.

    It spaces them evenly down to the shifted 1 / T, and then shifts them, so that the lower end is shifted twice.
    """
    if steps < 1:
        raise UserError(f"generate.steps: expected at least 1, got {steps}")
    lowest = process.shifted(torch.tensor(1 / process.T)).item()
    evenly = torch.from_numpy(np.linspace(process.T, lowest * process.T, steps) / process.T)
    times = process.shifted(evenly).float().tolist()
    return list(zip(times, [*times[1:], 0.0], strict=True))


build = FlowEuler
