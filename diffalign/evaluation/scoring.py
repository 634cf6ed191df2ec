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
from diffalign.evaluation.score_cache import Key, ScoreCache
from diffalign.evaluation.scores import Floats, ForAnother, ImageScores, PairScores, as_values
from diffalign.generation.gallery import Gallery

CHUNK = 64
"""Images that are decoded and scored at a time, at most."""
BATCH_PIXELS, WAITING_PIXELS = 2**25, 2**27
"""Pixels of the images of comparisons that are scored at a time, and that wait for others of their size."""
Score = Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], Mapping[str, Floats]]
"""Scores [B] of RGB images of one size, uint8 [H, W, 3], for their prompts: the reward's own and its parts, by name."""


def score_gallery(gallery: Gallery, score: Score, reward: str, cache: ScoreCache | None = None) -> dict[str, Floats]:
    """Scores a policy's images, in the gallery's order; each image's checksum is checked, a cached one's, too."""
    parts: list[Mapping[str, Floats]] = []
    progress = Progress(f"{reward}: {gallery.about['policy']}", len(gallery.entries))
    for start in range(0, len(gallery.entries), CHUNK):
        chunk = gallery.entries[start : start + CHUNK]
        keys = [(entry.sha256, entry.prompt) for entry in chunk]
        known = cache.get(keys) if cache else None
        if known is None:
            known = scored([gallery.pixels(entry) for entry in chunk], keys, score, cache)
        else:
            for entry in chunk:
                gallery.data(entry)
        parts.append(known)
        progress.update(len(chunk))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scored(
    pixels: Sequence[NDArray[np.uint8]], keys: Sequence[Key], score: Score, cache: ScoreCache | None
) -> dict[str, Floats]:
    """Returns scores [B] of images of one size by name, and keeps them in the cache."""
    found = dict(score(pixels, [prompt for _, prompt in keys]))
    if cache:
        cache.put(keys, found)
    return found


def score_again(
    gallery: Gallery, first: Floats, score: Score, reward: str, count: int, cache: ScoreCache | None = None
) -> list[tuple[float, float]]:
    """Scores some of a policy's images again, each alone: (first, again), in the reward's scale.

    At most `count`, spread over the gallery whose scores are `first`; images without a score are left out. What differs
    is the rounding of another batch's shape, or a reward that isn't deterministic; the cache keeps these apart.
    """
    chosen = np.unique(np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int))
    found = []
    for entry in (gallery.entries[i] for i in chosen):
        keys = [(f"again:{entry.sha256}", entry.prompt)]
        known = cache.get(keys) if cache else None
        columns = scored([gallery.pixels(entry)], keys, score, cache) if known is None else known
        found.append(columns[reward][0])
    both = ((float(first[i]), float(value)) for i, value in zip(chosen, found, strict=True))
    return [(a, b) for a, b in both if not (math.isnan(a) or math.isnan(b))]


def score_for_others(
    gallery: Gallery, own: Floats, score: Score, reward: str, count: int, cache: ScoreCache | None = None
) -> list[ForAnother]:
    """Scores some of a policy's images for another one's prompt, half of them further on; `own` are their scores.

    At most `count`, spread over the gallery, the same of each policy, but for those whose other prompt is their own.
    """
    chosen = np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)).tolist()
    moved = chosen[len(chosen) // 2 :] + chosen[: len(chosen) // 2]
    pairs = [(i, gallery.entries[i], gallery.entries[j].prompt) for i, j in zip(chosen, moved, strict=True)]
    pairs = [(i, entry, prompt) for i, entry, prompt in pairs if prompt != entry.prompt]
    found: list[float | None] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        keys = [(entry.sha256, prompt) for _, entry, prompt in chunk]
        known = cache.get(keys) if cache else None
        pixels = [gallery.pixels(entry) for _, entry, _ in chunk] if known is None else []
        found += as_values((known or scored(pixels, keys, score, cache))[reward])
    return [
        ForAnother(policy=gallery.about["policy"], prompt_index=entry.prompt_index, own=first, other=value)
        for (_, entry, _), first, value in zip(pairs, as_values(own[[i for i, *_ in pairs]]), found, strict=True)
    ]


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


def score_pairs(
    folder: Path, pairs: Sequence[Pair], score: Score, reward: str, max_pixels: int, cache: ScoreCache | None = None
) -> list[PairScores]:
    """Scores both images of each pair for its prompt; `folder` has the comparisons' images."""
    wanted = ((pair.image_w, pair.prompt) for pair in pairs), ((pair.image_l, pair.prompt) for pair in pairs)
    found = score_images(folder, [key for keys in wanted for key in keys], score, reward, max_pixels, cache)

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
    folder: Path,
    wanted: Collection[Key],
    score: Score,
    reward: str,
    max_pixels: int,
    cache: ScoreCache | None = None,
) -> dict[Key, float]:
    """Scores images of comparisons for their prompts, each once; NaN where it can't. See `score_parts`."""
    found = score_parts(folder, wanted, score, reward, max_pixels, cache)
    return {key: row[reward] for key, row in found.items()}


def score_parts(
    folder: Path,
    wanted: Collection[Key],
    score: Score,
    reward: str,
    max_pixels: int,
    cache: ScoreCache | None = None,
) -> dict[Key, dict[str, float]]:
    """Scores images of comparisons for their prompts, each once: the reward's own score and its parts, by name.

    Images are read in the order in which `folder` stores them, and scored together with others of their size. Which
    ones are together doesn't depend on what the cache knows, so that scores are the same bits with it and without.
    """
    keys = list(dict.fromkeys(wanted))
    if cache and (known := cache.get(keys)) is not None:
        return dict(zip(keys, by_row(known), strict=True))
    found: dict[Key, dict[str, float]] = {}
    progress = Progress(f"{reward}: images of comparisons", len(keys))
    for pixels, together in batches(folder, keys, max_pixels):
        values = cache.get(together) if cache else None
        if values is None:
            values = scored(pixels, together, score, cache)
        found |= zip(together, by_row(values), strict=True)
        progress.update(len(together))
    return found


def by_row(columns: Mapping[str, Floats]) -> Iterator[dict[str, float]]:
    """Yields the scores [B] of some images row by row, each by the columns' names."""
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, map(float, row), strict=True))


Batch = tuple[list[NDArray[np.uint8]], list[Key]]


def batches(folder: Path, wanted: Sequence[Key], max_pixels: int) -> Iterator[Batch]:
    """Yields decoded images of one size [H, W, 3] with their keys, up to `CHUNK` and to `BATCH_PIXELS` pixels."""
    prompts: dict[str, list[str]] = {}  # of each image: it may stand in several pairs
    for image, prompt in wanted:
        prompts.setdefault(image, []).append(prompt)
    waiting: dict[tuple[int, ...], Batch] = {}
    pixels_waiting = 0
    for image, data in comparisons.iter_images(folder, set(prompts)):
        pixels = np.asarray(images.decode(data, max_pixels))
        size, area = pixels.shape, pixels.shape[0] * pixels.shape[1]
        for prompt in prompts[image]:
            shown, keys = waiting.setdefault(size, ([], []))
            shown.append(pixels)
            keys.append((image, prompt))
            pixels_waiting += area
            if len(keys) >= min(CHUNK, max(BATCH_PIXELS // area, 1)):
                yield waiting.pop(size)
                pixels_waiting -= area * len(keys)
        while pixels_waiting > WAITING_PIXELS:
            fullest = max(waiting, key=lambda size: len(waiting[size][1]) * size[0] * size[1])
            pixels_waiting -= len(waiting[fullest][1]) * fullest[0] * fullest[1]
            yield waiting.pop(fullest)
    yield from waiting.values()
