"""A score that means nothing: a number by chance for each image. What learns from it, or wins by it, shows a fault."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.pixels import to_uint8
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.placebo import Settings

BYTES = 6
"""Of the hash: 48 bits are exact in a float64."""


class Placebo:
    """Scores uniformly in [0, 1) by a hash of the image, whatever the prompt; on a CPU, image by image."""

    name = "placebo"
    version = "1"
    range = (0.0, 1.0)
    families: tuple[str, ...] = ()
    differentiable = False
    trained_on = "Nothing, and it knows nothing: a control. A policy that learned from it should win half by any judge."

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; NaN where a pixel isn't finite."""
        known = pixels.isfinite().flatten(1).all(dim=1).tolist()
        digests = [hashlib.sha256(image.tobytes()).digest() for image in to_uint8(pixels.nan_to_num())]
        scores = [
            int.from_bytes(digest[:BYTES]) / 256**BYTES if finite else float("nan")
            for digest, finite in zip(digests, known, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float64, device=pixels.device)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the reward; it has no settings and needs no device."""
    return Placebo()
