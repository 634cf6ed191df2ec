"""Scores generated images, and images of comparisons, with a reward.

The reward comes as a plain function, so that evaluation needs none of the rewards' code. Legend: B images, H W pixels.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.batches.pairs import Pair
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation.scores import Floats, ImageScores, PairScores, as_values
from diffalign.generation.gallery import Gallery

CHUNK = 64
"""Images that are decoded and scored at a time."""
Score = Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], Mapping[str, Floats]]
"""Scores [B] of RGB images of one size, uint8 [H, W, 3], for their prompts: the reward's own and its parts, by name."""


def score_gallery(gallery: Gallery, score: Score, reward: str) -> dict[str, Floats]:
    """Scores a policy's images, in the gallery's order; each image's checksum is checked on reading."""
    parts: list[Mapping[str, Floats]] = []
    progress = Progress(f"{reward}: {gallery.about['policy']}", len(gallery.entries))
    for start in range(0, len(gallery.entries), CHUNK):
        chunk = gallery.entries[start : start + CHUNK]
        parts.append(score([gallery.pixels(entry) for entry in chunk], [entry.prompt for entry in chunk]))
        progress.update(len(chunk))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def image_lines(gallery: Gallery, scores: Mapping[str, Floats]) -> Iterator[ImageScores]:
    """Yields the published line of each image of a policy."""
    columns = {name: as_values(column) for name, column in scores.items()}
    for i, entry in enumerate(gallery.entries):
        yield ImageScores(
            policy=gallery.about["policy"],
            file=entry.file,
            sha256=entry.sha256,
            prompt=entry.prompt,
            prompt_index=entry.prompt_index,
            seed=entry.seed,
            scores={name: column[i] for name, column in columns.items()},
        )


def score_pairs(folder: Path, pairs: Sequence[Pair], score: Score, reward: str, max_pixels: int) -> list[PairScores]:
    """Scores both images of each pair for its prompt; `folder` has the comparisons' images."""
    wanted = ((pair.image_w, pair.prompt) for pair in pairs), ((pair.image_l, pair.prompt) for pair in pairs)
    found = score_images(folder, [key for keys in wanted for key in keys], score, reward, max_pixels)

    def value(image: str, prompt: str) -> float | None:
        return None if math.isnan(found[image, prompt]) else found[image, prompt]

    return [
        PairScores(
            pair_id=pair.pair_id,
            prompt=pair.prompt,
            winner=value(pair.image_w, pair.prompt),
            loser=value(pair.image_l, pair.prompt),
        )
        for pair in pairs
    ]


def score_images(
    folder: Path, wanted: Collection[tuple[str, str]], score: Score, reward: str, max_pixels: int
) -> dict[tuple[str, str], float]:
    """Scores images of comparisons for their prompts, given as (image, prompt), each once; NaN where it can't.

    Images are read in the order in which `folder` stores them, one at a time, since their sizes differ.
    """
    prompts: dict[str, dict[str, None]] = {}  # of each image: it may stand in several pairs
    for image, prompt in wanted:
        prompts.setdefault(image, {})[prompt] = None
    found: dict[tuple[str, str], float] = {}
    progress = Progress(f"{reward}: images of comparisons", len(prompts))
    for image, data in comparisons.iter_images(folder, set(prompts)):
        pixels = np.asarray(images.decode(data, max_pixels))
        for prompt in prompts[image]:
            found[image, prompt] = float(score([pixels], [prompt])[reward][0])
        progress.update()
    return found
