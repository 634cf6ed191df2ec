"""Coefficients-preserving sampling of flows (Wang & Yu 2025, arXiv 2509.05952)."""

from dataclasses import dataclass

from diffalign.diffusion.process import Process
from diffalign.diffusion.samplers.flow_euler import noisy_plan
from diffalign.diffusion.samplers.sampler import Plan


@dataclass(frozen=True)
class FlowCPS:
    """Replaces part of the noise that a step keeps by new noise; DDIM's idea for flows.

    `noise` in [0, 1]: 0 is Euler's method, 1 replaces all of it, as diffusers' FlowMatchEulerDiscreteScheduler does
    with stochastic_sampling.
    """

    noise: float

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps at the times of `FlowEuler`."""
        return noisy_plan(process, "cps", self.noise, steps)


build = FlowCPS
