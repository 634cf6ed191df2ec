"""Gathers what the arena shows: policies' galleries, or a round's images, as pairs, copied, and noise for the checks.

Images are copied into the arena's own folder, named by their SHA-256: while people vote, `dvc repro` may make others.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from arena.plan import Image, Pair, pair_id, pairs_of
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data.votes import ROUND
from diffalign.generation import gallery as galleries
from diffalign.generation import round_images
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
    pairs = pairs_of(names, _slots(shown))
    if not pairs:
        raise UserError(f"arena: {', '.join(names)} have equal images everywhere: there is nothing to compare.")
    return pairs, copied(list(shown.values()), copies)


def gather_round(name: str, copies: Path) -> tuple[list[Pair], list[Image]]:
    """Returns every two images of each prompt of a round, and the noise; their images lie in `copies` then.

    Raises UserError where the round has no images yet, or each prompt's are equal.
    """
    gallery, pairs = round_images.read(name), list[Pair]()
    for entries in round_images.by_prompt(gallery):
        for one, other in combinations((Image(entry.sha256, f"{ROUND}{name}") for entry in entries), 2):
            if one.sha256 != other.sha256:
                prompt, number = entries[0].prompt, len(pairs)
                pairs.append(Pair(pair_id(prompt, number, one, other), prompt, number, (one, other)))
    if not pairs:
        raise UserError(f"arena: the images of round {name} are equal for each prompt: there is nothing to compare.")
    return pairs, copied([gallery], copies)


def copied(shown: Sequence[Gallery], copies: Path) -> list[Image]:
    """Copies the images that are shown, and makes those of noise, which it returns."""
    copies.mkdir(parents=True, exist_ok=True)
    progress = Progress("images", sum(len(gallery.entries) for gallery in shown))
    for gallery in shown:
        copy(gallery, copies, progress)
    resolution = int(shown[0].made["resolution"])
    return [noise(number, resolution, copies) for number in range(NOISES)]


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
