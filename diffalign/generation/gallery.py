"""A policy's generated images as generate published them: a folder of PNGs and a manifest with their checksums."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes


@dataclass(frozen=True)
class Entry:
    """One image: its file's name and SHA-256, and what it was made for."""

    file: str
    prompt: str
    prompt_index: int
    seed: int
    sha256: str

    @property
    def slot(self) -> tuple[int, int]:
        """(prompt, seed): the images of two policies at one slot are compared with each other."""
        return self.prompt_index, self.seed


@dataclass(frozen=True)
class Gallery:
    """All images of one policy, in the order of their slots."""

    folder: Path
    about: dict[str, Any]
    """The manifest but for its images: policy, noise_seed, sampler, resolution, prompts, prompts_asked, seeds."""
    entries: tuple[Entry, ...]

    def data(self, entry: Entry) -> bytes:
        """An image's bytes; UserError unless they are those of the manifest."""
        path = self.folder / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror}). {self._remedy()}") from None
        if sha256_bytes(data) != entry.sha256:
            raise UserError(
                f"{path} has changed since it was generated: its SHA-256 isn't the manifest's. {self._remedy()}"
            )
        return data

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        """An image as uint8 [H, W, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.data(entry))).convert("RGB"))

    def _remedy(self) -> str:
        return f"Run `dvc repro --force generate@{self.about['policy']}`."


def read(folder: Path) -> Gallery:
    """A policy's gallery; UserError if its manifest is missing or not one. Images are checked when they are read."""
    try:
        about = json.loads((folder / "manifest.json").read_text())
        entries = tuple(Entry(**entry) for entry in about.pop("images"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / 'manifest.json'} isn't a manifest of generated images: {error!r}. Run `dvc repro`."
        ) from None
    if any(Path(entry.file).name != entry.file for entry in entries):
        raise UserError(f"{folder / 'manifest.json'} names files outside its folder. Run `dvc repro`.")
    return Gallery(folder, about, tuple(sorted(entries, key=lambda e: e.slot)))


def check_comparable(galleries: Iterable[Gallery]) -> None:
    """Raises UserError unless all have images for the same prompts and seeds."""
    first, *others = galleries
    slots = [(e.slot, e.prompt) for e in first.entries]
    for other in others:
        if [(e.slot, e.prompt) for e in other.entries] != slots:
            raise UserError(
                f"{other.folder} and {first.folder} have images for different prompts or seeds: "
                "they come from different runs. Run `dvc repro`."
            )


def how_made(gallery: Gallery) -> dict[str, Any]:
    """Returns how a policy's images were made, as its manifest says: sampler, resolution, noise, prompts."""
    return {key: value for key, value in gallery.about.items() if key not in ("schema", "policy")}
