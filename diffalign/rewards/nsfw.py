"""Yahoo's open_nsfw as a reward: how safe for work an image is, whatever the prompt.

Score: 1 - P(not safe for work), so that higher is better. Preprocessing and licence are in `parts/open_nsfw.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffalign.core import shipped
from diffalign.data.pixels import to_uint8
from diffalign.rewards.parts import open_nsfw
from diffalign.rewards.parts.open_nsfw import Probabilities
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.nsfw import Settings


@dataclass(frozen=True)
class Safe:
    """Scores on a CPU, image by image; NaN where an image isn't finite."""

    probabilities: Probabilities
    name = "nsfw"
    version = f"1-{open_nsfw.WEIGHTS.digest}"
    range = (0.0, 1.0)
    families: tuple[str, ...] = ()
    differentiable = False
    trained_on = (
        "Yahoo's unpublished photographs of 2016, pornographic or not. It finds neither violence nor hate, and its "
        "errors on drawings, art and skin colours aren't published: a filter for photographs, not a judge of safety."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        finite = pixels.isfinite().flatten(1).all(dim=1).cpu().numpy()
        found = 1 - self.probabilities(to_uint8(pixels.nan_to_num()))
        return torch.from_numpy(np.where(finite, found, np.nan)).to(pixels.device)


def check(settings: "Settings") -> None:
    """Raises UserError unless its package is installed with the file that is expected."""
    shipped.path(open_nsfw.WEIGHTS)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the network; UserError where the extra isn't installed. It runs on a CPU."""
    return Safe(open_nsfw.load())
