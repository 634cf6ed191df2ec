"""The number of prompts that tell a win rate from one half, before any image is made.

An outcome is 1, 0.5 or 0. With win rate r = 1/2 + d and a share of ties its variance is (1 - ties) / 4 - d^2. The mean
of m images of a prompt whose outcomes correlate by rho has (1 + (m - 1) rho) / m of that (the design effect, Kish
1965). A two-sided test at alpha = 1 - confidence sees d with the wanted power where
n d^2 = (z_{1 - alpha / 2} + z_power)^2 var.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from diffalign.core.errors import UserError


@dataclass(frozen=True)
class Design:
    """What decides how many prompts are needed beside the difference itself."""

    confidence: float
    power: float
    """The wanted probability that the difference is seen."""
    ties: float
    """Share of images that tie."""
    images: int
    """Images a prompt."""
    alike: float
    """Correlation of outcomes of a prompt's images, 0 to 1."""
    tests: int = 1
    """Comparisons that are tested together: alpha is shared between them, as Holm's first step does."""

    @property
    def quantiles(self) -> float:
        """Returns z_{1 - alpha / 2} + z_power."""
        from scipy.special import ndtri

        return float(ndtri(1 - (1 - self.confidence) / self.tests / 2) + ndtri(self.power))

    @property
    def effect(self) -> float:
        """Returns the variance of a prompt's mean over that of one image's outcome."""
        return (1 + (self.images - 1) * self.alike) / self.images


def prompts(rate: float, design: Design) -> int:
    """Returns how many prompts tell a win rate from one half; UserError where it is a half or the ties forbid it."""
    d = abs(rate - 0.5)
    if not 0 < d <= (1 - design.ties) / 2:
        raise UserError(
            f"power: expected a win rate that isn't 0.5, from {design.ties / 2:g} to {1 - design.ties / 2:g} with "
            f"{design.ties:.0%} ties, which count half, found {rate:g}"
        )
    return max(math.ceil(design.quantiles**2 * design.effect * ((1 - design.ties) / 4 - d * d) / (d * d)), 2)


def difference(count: int, design: Design) -> float:
    """Returns the smallest d = |rate - 1/2| that `count` prompts see: the inverse of `prompts`."""
    z2 = design.quantiles**2 * design.effect
    return math.sqrt(z2 * (1 - design.ties) / 4 / (count + z2))


def text(rate: float, counts: Mapping[str, int], design: Design) -> str:
    """Returns both for the terminal: prompts for a rate, and the rates that each set of prompts sees, by its size."""
    images = "1 image" if design.images == 1 else f"{design.images} images"
    tests = "" if design.tests == 1 else f", in {design.tests} comparisons that are tested together"
    lines = [
        f"With power {design.power:.0%}, confidence {design.confidence:.0%}, {design.ties:.0%} ties, {images} a prompt"
        f"{tests}:",
        f"  a win rate of {rate:.1%} is told from 50% by {prompts(rate, design):,} prompts",
    ]
    for name, count in counts.items():
        seen = difference(count, design)
        lines.append(
            f"  {count:,} prompts of {name} (generate.prompts) tell rates from {0.5 + seen:.1%} up, or to "
            f"{0.5 - seen:.1%} down"
        )
    return "\n".join(lines)
