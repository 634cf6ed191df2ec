"""Near-duplicates of images by a perceptual hash: 64 bits that scaling, compressing and small edits hardly change.

It's for pictures with detail. Flat drawings have few edges, and differ in few bits though they aren't alike.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from PIL import Image

BITS = 64
FLAT = 2
"""Grey levels of 255 that two cells must differ by: the noise of compression tells nothing of a flat area."""


def dhash(image: Image.Image) -> int:
    """Returns the difference hash of an RGB image: whether each of 8 x 8 cells is darker than the one to its right.

    Neal Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013. Grey levels are Pillow's (ITU-R 601-2), cells are
    means over their pixels.
    """
    grid = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grid[:, 1:] > grid[:, :-1] + FLAT).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Index:
    """Finds whether one of some hashes differs from another in at most `distance` bits, without comparing with all.

    The 64 bits are cut into distance + 1 bands: of two hashes that differ in at most `distance` bits, one band is the
    same in both.
    """

    def __init__(self, hashes: Iterable[int], distance: int) -> None:
        self.distance = distance
        edges = [BITS * band // (distance + 1) for band in range(distance + 2)]
        self.bands = [(low, (1 << (high - low)) - 1) for low, high in zip(edges, edges[1:], strict=False)]
        self.found: dict[tuple[int, int], list[int]] = defaultdict(list)
        for value in set(hashes):
            for key in self._keys(value):
                self.found[key].append(value)

    def has(self, value: int) -> bool:
        """Tells whether a hash is near one of the index's."""
        candidates = (other for key in self._keys(value) for other in self.found.get(key, ()))
        return any((value ^ other).bit_count() <= self.distance for other in candidates)

    def _keys(self, value: int) -> list[tuple[int, int]]:
        return [(low, value >> low & mask) for low, mask in self.bands]
