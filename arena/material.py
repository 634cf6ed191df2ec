"""Gathers what the arena shows: the policies' galleries as pairs, their images copied, and noise for the checks.

Images are copied into the arena's own folder, named by their SHA-256: while people vote, `dvc repro` may make others.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from arena.plan import Image, Pair, pairs_of
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery

NOISES = 16
"""Pictures of noise; checks take one at random."""


def names_in(folder: Path) -> list[str]:
    """Returns the policies with images in a folder, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def gather(names: Sequence[str], galleries_folder: Path, copies: Path) -> tuple[list[Pair], list[Image]]:
    """Returns the pairs of the policies and the noise; their images lie in `copies` then.

    Raises UserError: fewer than two policies, one without images, images that aren't comparable or have changed.
    """
    there = names_in(galleries_folder)
    unknown = [name for name in names if name not in there]
    if unknown or len(set(names)) < 2 or len(set(names)) != len(names):
        raise UserError(
            f"arena: expected two or more policies with images, each once, found {', '.join(names) or 'none'}. "
            f"There are {', '.join(there) or 'no images yet: dvc repro'}."
        )
    shown = {name: galleries.read(galleries_folder / name) for name in names}
    galleries.check_comparable(shown.values())
    copies.mkdir(parents=True, exist_ok=True)
    progress = Progress("images", sum(len(gallery.entries) for gallery in shown.values()))
    for gallery in shown.values():
        copy(gallery, copies, progress)
    pairs = pairs_of(names, _slots(shown))
    if not pairs:
        raise UserError(f"arena: {', '.join(names)} have equal images everywhere: there is nothing to compare.")
    resolution = int(next(iter(shown.values())).made["resolution"])
    return pairs, [noise(number, resolution, copies) for number in range(NOISES)]


def copy(gallery: Gallery, folder: Path, progress: Progress) -> None:
    """Copies a gallery's images that aren't in the folder yet, each checked."""
    for entry in gallery.entries:
        if not (folder / entry.sha256).exists():
            files.write_bytes(folder / entry.sha256, gallery.data(entry))
        progress.update(1)


def noise(number: int, resolution: int, folder: Path) -> Image:
    """Writes a picture of independent random pixels, and returns its name."""
    pixels = np.random.default_rng(number).integers(256, size=(resolution, resolution, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    name = files.sha256_bytes(data)
    files.write_bytes(folder / name, data)
    return Image(name, None)


def _slots(shown: dict[str, Gallery]) -> Iterator[tuple[str, int, dict[str, str]]]:
    for row in zip(*(gallery.entries for gallery in shown.values()), strict=True):
        images = {name: entry.sha256 for name, entry in zip(shown, row, strict=True)}
        yield row[0].prompt, row[0].seed, images
