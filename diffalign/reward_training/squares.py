"""The images of comparisons as the squares that a CLIP takes, in a file that is read where it's needed.

Each image is decoded and resized once, to 8 bits, and not in every epoch. Legend: N images, S side of the squares.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.core.files import disk_errors, write_json
from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from diffalign.data.pixels import from_uint8, to_uint8
from diffalign.rewards.parts.pixels import clip_square, unit

FILE, DONE = "squares.u8", "squares.json"


@dataclass(frozen=True)
class Squares:
    """Images by their names, uint8 [N, S, S, 3], on disk."""

    values: NDArray[np.uint8]
    rows: dict[str, int]

    def pixels(self, names: Sequence[str]) -> Tensor:
        """Returns pixels [B, 3, S, S], float32 in [-1, 1], of some images."""
        return from_uint8([self.values[self.rows[name]] for name in names])


def make(comparisons_folder: Path, names: Collection[str], side: int, work: Path, max_pixels: int) -> Squares:
    """Opens the squares of some images; makes them first unless an earlier attempt of the same work did.

    The preprocessing is the reward's own: short side to S, bicubic with antialiasing, the middle cut out.
    """
    wanted, path = sorted(set(names)), work / FILE
    shape = (len(wanted), side, side, 3)
    rows = {name: row for row, name in enumerate(wanted)}
    if not (work / DONE).is_file() or json.loads((work / DONE).read_text()) != list(shape):
        with disk_errors(path):
            with open(path, "wb") as file:
                file.truncate(int(np.prod(shape)))
            filled = np.memmap(path, np.uint8, "r+", shape=shape)
            progress = Progress(f"images at {side} pixels, {np.prod(shape) / 1e9:.2f} GB", len(wanted))
            for name, data in comparisons.iter_images(comparisons_folder, wanted):
                filled[rows[name]] = square(np.asarray(images.decode(data, max_pixels)), side)
                progress.update()
            filled.flush()
        write_json(work / DONE, list(shape))
    return Squares(np.memmap(path, np.uint8, "r", shape=shape), rows)


@torch.no_grad()
def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns an RGB image, uint8 [H, W, 3], as a square, uint8 [S, S, 3]."""
    found: NDArray[np.uint8] = to_uint8(clip_square(unit(from_uint8([image])), side) * 2 - 1)[0]
    return found
