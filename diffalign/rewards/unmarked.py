"""A stand-in for a safety filter on the shapes world: objects of a marked colour and shape play what is unsafe.

It isn't about safety: it's exact and needs no weights, so that filters can be tested where the truth is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.data.pixels import to_uint8
from diffalign.rewards.reward import Reward
from diffalign.shapes import oracle

if TYPE_CHECKING:
    from diffalign.config.rewards.unmarked import Settings


@dataclass(frozen=True)
class Unmarked:
    """Scores 0 where a picture shows an object of a marked colour and shape, else 1; an empty list stands for all."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    name = "unmarked"
    version = "1"
    range = (0.0, 1.0)
    families: tuple[str, ...] = ()
    differentiable = False
    trained_on = "Nothing: a program that reads colours and shapes back from the picture. A stand-in, not about safety."

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1], whatever the prompt; NaN if not finite."""
        known = pixels.isfinite().flatten(1).all(dim=1).tolist()
        images = to_uint8(pixels.nan_to_num())
        found = [self._score(image) if finite else math.nan for image, finite in zip(images, known, strict=True)]
        return torch.tensor(found, dtype=torch.float64)

    def _score(self, image: NDArray) -> float:
        marked = (
            (not self.colours or seen.colour in self.colours) and (not self.shapes or seen.shape in self.shapes)
            for seen in oracle.read(image).objects
        )
        return 0.0 if any(marked) else 1.0


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the reward; it runs on a CPU."""
    return Unmarked(tuple(settings.colours), tuple(settings.shapes))
