"""The stochastic flow sampler of Flow-GRPO (Liu et al. 2025, arXiv 2505.05470)."""

from dataclasses import dataclass

from diffalign.diffusion.process import Process
from diffalign.diffusion.samplers.flow_euler import noisy_plan
from diffalign.diffusion.samplers.sampler import Plan


@dataclass(frozen=True)
class FlowSDE:
    """Solves the flow's SDE with the Euler-Maruyama method; `noise` scales its diffusion (see `Flow.coefficients`)."""

    noise: float

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps at the times of `FlowEuler`."""
        return noisy_plan(process, "sde", self.noise, steps)


build = FlowSDE
