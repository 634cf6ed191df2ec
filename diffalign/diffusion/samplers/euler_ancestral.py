"""Ancestral sampling with Euler's method in sigma / alpha."""

from dataclasses import dataclass

from diffalign.diffusion.process import Process
from diffalign.diffusion.samplers.euler import sigma_plan
from diffalign.diffusion.samplers.sampler import Plan, diffusion
from diffalign.diffusion.samplers.spacing import Spacing


@dataclass(frozen=True)
class EulerAncestral:
    """Equals diffusers' EulerAncestralDiscreteScheduler with steps_offset 1.

    Its steps are DDIM's with eta 1, at the times of `Euler`.
    """

    spacing: Spacing

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps between successive times, down to a clean image, each but the last with new noise."""
        return sigma_plan(diffusion(process, "euler_ancestral"), self.spacing, steps, noise=1.0)


build = EulerAncestral
