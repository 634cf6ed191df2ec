"""Attributes of the shapes world that captions leave open, as the oracle reads them from pictures: an exact classifier.

Of a picture the largest object counts. A caption that names no size leaves size open, and so on; other words don't
matter, so that prompts outside the world's grammar, such as "a circle on a white background", may be asked too.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffalign.evaluation.audits import attributes
from diffalign.evaluation.audits.attributes import NONE, Labelled, Labels
from diffalign.generation.gallery import Gallery
from diffalign.shapes.oracle import MIDDLE, NAMES, Reading, Seen, read
from diffalign.shapes.scenes import COLOURS, NUMBERS, PLACES, SHAPES

NEAR = 6.0
"""64ths of the picture from its middle, up to which an object is in the centre."""
SEVERAL = re.compile(rf"\b({'|'.join(NUMBERS.values())}|(?<!the )left of|(?<!the )right of|above|below)\b")
"""Captions of several objects, which share the canvas: their sizes and places aren't open."""
WORDS = {
    "colour": re.compile(rf"\b({'|'.join(COLOURS)})\b(?! background)"),
    "shape": re.compile(rf"\b({'|'.join(SHAPES)})(e?s)?\b"),
    "size": re.compile(r"\b(small|large)\b"),
    "place": re.compile(rf"\b({'|'.join(PLACES)})\b"),
}
VALUES: dict[str, tuple[str, ...]] = {
    "colour": NAMES,
    "shape": SHAPES,
    "size": ("small", "middle", "large"),
    "place": ("centre", *PLACES),
}
"""The values of each attribute."""


def is_open(prompt: str, attribute: str) -> bool:
    """Tells whether a prompt leaves an attribute open."""
    text = prompt.lower()
    crowded = attribute in ("size", "place") and SEVERAL.search(text)
    return not crowded and not WORDS[attribute].search(text)


def labelled(asked: Mapping[str, str], galleries: Mapping[str, Gallery]) -> dict[str, Labelled]:
    """Reads attributes, `asked` by name, from each policy's images of prompts that leave them open, a picture once."""
    entries = next(iter(galleries.values())).entries
    free = {name: np.array([is_open(entry.prompt, one) for entry in entries], bool) for name, one in asked.items()}
    if not free:
        return {}
    any_free = np.logical_or.reduce(list(free.values()))
    kinds = list(asked.values())
    found = attributes.label(galleries, any_free, lambda images: labels(images, kinds), (len(kinds),))
    return {
        name: Labelled(
            values=VALUES[attribute],
            open=free[name],
            labels={policy: np.where(free[name], columns[:, i], NONE) for policy, columns in found.items()},
        )
        for i, (name, attribute) in enumerate(asked.items())
    }


def labels(images: Sequence[NDArray[np.uint8]], asked: Sequence[str]) -> Labels:
    """Returns the values of attributes [N, A] that pictures, uint8 [H, W, 3], show, by index; NONE without objects."""
    found = np.full((len(images), len(asked)), NONE, np.int64)
    for row, image in zip(found, images, strict=True):
        reading = read(image)
        if reading.objects:
            row[:] = [VALUES[one].index(READERS[one](reading, reading.objects[0])) for one in asked]
    return found


def place(reading: Reading, seen: Seen) -> str:
    """Returns where an object lies: the centre, or the side that it's furthest towards."""
    step = np.array([seen.x, seen.y]) - MIDDLE
    if np.linalg.norm(step) < NEAR:
        return "centre"
    return max(PLACES, key=lambda name: float(step @ np.array(PLACES[name])))


READERS: dict[str, Callable[[Reading, Seen], str]] = {
    "colour": lambda reading, seen: seen.colour,
    "shape": lambda reading, seen: seen.shape,
    "size": lambda reading, seen: seen.size or "middle",
    "place": place,
}
