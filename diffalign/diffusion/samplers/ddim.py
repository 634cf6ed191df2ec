"""DDIM (Song et al. 2020, arXiv 2010.02502), deterministic or with noise."""

from dataclasses import dataclass

from diffalign.diffusion.process import Process
from diffalign.diffusion.samplers import spacing
from diffalign.diffusion.samplers.sampler import Plan, by_coefficients, diffusion, exact
from diffalign.diffusion.samplers.spacing import Spacing


@dataclass(frozen=True)
class DDIM:
    """Equals diffusers' DDIMScheduler with clip_sample and set_alpha_to_one off, and steps_offset 1.

    `eta`: share of the noise of DDPM's posterior that each step adds; 0 is deterministic.
    """

    eta: float
    spacing: Spacing

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans steps of T // steps timesteps each, whatever the next time is: so the stock scheduler does.

        With spacing linspace, or trailing where steps doesn't divide T, x is taken to a time a little beside the one
        that the network is then told.
        """
        process = diffusion(process, "ddim")
        T = process.T
        if self.spacing == "leading":
            times = spacing.leading(T, steps, steps)
        else:
            times = spacing.trailing(T, steps) if self.spacing == "trailing" else spacing.rounded(T, steps)
        moves = [(t, t - T // steps) for t in times]
        solver = by_coefficients(process, self.eta) if self.eta else exact(process)
        return Plan(process, list(moves), self.eta, lambda: solver)


build = DDIM
