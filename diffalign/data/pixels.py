"""8-bit images to float pixels and back.

Legend: B images, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def from_uint8(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Turns RGB images of one size, uint8 [H, W, 3], into pixels [B, 3, H, W], float32 in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Rounds pixels [B, 3, H, W] in [-1, 1] to RGB images, uint8 [B, H, W, 3]; values beyond are clamped.

    Gives back exactly what `from_uint8` was given.
    """
    levels = (pixels.detach().float().clamp(-1, 1) * 127.5 + 127.5).round()
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()
