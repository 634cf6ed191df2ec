"""Flags comparisons by filters of prompts and of images, while they are ingested; `flags.py` says what flags there are.

Filters come as plain functions, so that data needs none of the rewards' code.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.data import images
from diffalign.data.filters.flags import UNSAFE, UNSCORED

PromptFilter = Callable[[str], bool]
ImageFilter = Callable[[NDArray[np.uint8]], bool | None]
"""Tells whether an image, uint8 [H, W, 3], is unsafe; None where it can't be scored."""


@dataclass
class Screen:
    """The filters by name, and what they found; without filters nothing is decoded."""

    max_pixels: int
    prompts: Mapping[str, PromptFilter] = field(default_factory=dict)
    images: Mapping[str, ImageFilter] = field(default_factory=dict)
    of_images: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    """Of images that were flagged, by their SHA-256: `unsafe SIDE:NAME` with the side left open."""

    def look(self, digest: bytes, data: bytes) -> None:
        """Scores an image by all filters of images, and keeps its flags."""
        if not self.images:
            return
        pixels = np.asarray(images.decode(data, self.max_pixels))
        verdicts = {name: unsafe(pixels) for name, unsafe in self.images.items()}
        flags = [
            f"{UNSCORED if bad is None else UNSAFE}_{{}}:{name}" for name, bad in verdicts.items() if bad is not False
        ]
        if flags:
            self.of_images[digest] = tuple(flags)

    def flags(self, prompt: str, a: bytes, b: bytes) -> tuple[str, ...]:
        """Returns the flags of a comparison of two images, given by their SHA-256, for a prompt."""
        found = [f"{UNSAFE}_prompt:{name}" for name, unsafe in self.prompts.items() if unsafe(prompt)]
        for side, digest in (("a", a), ("b", b)):
            found += [flag.format(side) for flag in self.of_images.get(digest, ())]
        return tuple(found)

    def metrics(self, flags: Counter[str]) -> dict[str, Any]:
        """Returns, for metrics/ingest.json, how many comparisons have each flag of a filter."""
        ours = {flag: count for flag, count in sorted(flags.items()) if flag.startswith((UNSAFE, UNSCORED))}
        return {"flagged": ours} if self.prompts or self.images else {}
