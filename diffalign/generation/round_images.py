"""Reads a round's images as sample@ROUND published them: a policy's own, several of each training prompt."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Entry, Gallery

SAMPLES = Path("data/samples")
"""Where `sample@NAME` writes the images of the round NAME."""


def read(name: str) -> Gallery:
    """Reads a round's images; UserError if its manifest is missing or not one. Images are checked when they're read."""
    return galleries.read(SAMPLES / name, "sample")


def by_prompt(gallery: Gallery) -> Iterator[list[Entry]]:
    """Yields the images of each prompt, in the order of their slots."""
    for _, entries in groupby(gallery.entries, lambda entry: entry.prompt_index):
        yield list(entries)
