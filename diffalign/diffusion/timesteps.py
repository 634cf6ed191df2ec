"""Draws the times t of training: over a part of the schedule, by a density, in strata or not.

A share u in [0, 1] of the schedule stands for a timestep; the process says for which (`Process.time`).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from diffalign.diffusion.process import Process

Density = Literal["uniform", "logit_normal", "logit_normal_shifted"]
NORMAL = NormalDist()


@dataclass(frozen=True)
class Times:
    """Draws t between two shares of a process's schedule.

    `density`: uniform, or logit_normal: sigmoid of a standard normal, which spares both ends (Esser et al. 2024, arXiv
    2403.03206, sec. 3.1), cut to the range; logit_normal_shifted: the same after the process's shift towards the noise
    (eq. 23), which adds log(shift) to the normal. `strata`: 0 draws every slot by itself; the global batch's size puts
    the slots' draws into as many equally likely parts of the range, one each: the same density, with less variance.
    """

    process: Process
    low: float = 0.0
    high: float = 1.0
    density: Density = "uniform"
    strata: int = 0

    def draw(self, rng: np.random.Generator, slot: int = 0) -> int | float:
        """Returns the t of a slot of the global batch, in the process's unit."""
        span = self.process.span((self.low, self.high)) if self.density == "uniform" and not self.strata else None
        if span is not None:
            return int(rng.integers(span.start, span.stop))
        u = rng.random()
        return self.process.time(self.share((slot + u) / self.strata if self.strata else u))

    def share(self, u: float) -> float:
        """Returns the share of the schedule below which a part u in [0, 1) of the density lies: its quantile."""
        if self.density == "uniform":
            return self.low + u * (self.high - self.low)
        mean = math.log(self.process.shift) if self.density == "logit_normal_shifted" else 0.0
        below, above = (distribution(share, mean) for share in (self.low, self.high))
        return quantile(below + u * (above - below), mean)


def distribution(share: float, mean: float) -> float:
    """Returns the part of the logit-normal density, its normal with this mean, below a share in [0, 1]."""
    return share if share in (0, 1) else NORMAL.cdf(math.log(share / (1 - share)) - mean)


def quantile(part: float, mean: float) -> float:
    """Returns the share below which a part lies, the inverse of `distribution`: sigmoid of the normal quantile."""
    return part if part in (0, 1) else 1 / (1 + math.exp(-mean - NORMAL.inv_cdf(part)))
