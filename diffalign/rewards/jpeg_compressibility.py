"""How small an image's JPEG file is: DDPO's benchmark `jpeg_compressibility`, exact, whatever the prompt."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.rewards.parts import jpeg
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.jpeg_compressibility import Settings


class Compressibility:
    """Scores minus the size in kB at quality 95; on a CPU, image by image. Another resolution is another scale."""

    name = "jpeg_compressibility"
    version = "1"
    range = (-math.inf, 0.0)
    families: tuple[str, ...] = ()
    differentiable = False
    trained_on = "Nothing: it is the size of a file. It knows nothing of prompts, people or beauty."

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns minus the sizes [B], float64, in kB, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        return -jpeg.kilobytes(pixels)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the reward; it has no settings and needs no device."""
    return Compressibility()
