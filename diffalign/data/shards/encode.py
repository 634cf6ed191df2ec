"""Encodes the images and prompts of comparisons for shards: latents' moments and conditions, each made once.

B batch, C latent channels, h w latent height and width. Images are decoded in threads while a batch is encoded.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffalign.core.errors import UserError
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import COND, COND_FLIP, UNCONDITIONAL, prompt_key
from diffalign.data.shards.writer import Sample
from diffalign.models.family import Family

DECODERS = min(8, os.cpu_count() or 1)
COUNTED = 4096
"""Prompts that are tokenized at a time to count those that are cut."""
T = TypeVar("T")
R = TypeVar("R")


def image_keys(folder: Path, table: pa.Table) -> list[str]:
    """Returns the images that a folder's comparisons show, each once, in the order in which ingest stored them.

    Storage order, so that they can be streamed. Raises UserError if some aren't stored.
    """
    wanted = set(table["image_a"].unique().to_pylist()) | set(table["image_b"].unique().to_pylist())
    keys: dict[str, None] = {}
    for path in sorted(folder.glob(comparisons.IMAGES)):
        try:
            stored = pq.read_table(path, columns=["sha256"])["sha256"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} can't be read: {error}. {comparisons.AGAIN}") from error
        keys |= dict.fromkeys(key for key in stored if key in wanted)
    missing = wanted.difference(keys)
    if missing:
        raise UserError(
            f"{folder}: expected the {len(wanted)} images of the comparisons in images-*.parquet, "
            f"{len(missing)} are missing, {min(missing)} for one. Make them again: dvc repro --force ingest"
        )
    return list(keys)


def batches(unfinished: Sequence[Sequence[str]], size: int) -> list[list[str]]:
    """Divides shards' keys into batches within a shard, so that a batch is the same wherever a killed run stopped."""
    return [list(shard[i : i + size]) for shard in unfinished for i in range(0, len(shard), size)]


def image_samples(
    family: Family,
    encoded: Iterable[tuple[str, bytes]],
    plan: Sequence[Sequence[str]],
    resolution: int,
    flips: bool,
    max_pixels: int,
) -> Iterator[Sample]:
    """Yields the moments of images' latents, mean and logvar [C, h, w], and with flips those of the mirrored images.

    `plan` has the keys in the order of `encoded`, in batches. Each sample also has the image's part of the condition.
    Images are decoded in a few threads, at most two batches early. Raises UserError for an undecodable image.
    """

    def pixels(item: tuple[str, bytes]) -> tuple[str, tuple[int, int], np.ndarray]:
        key, data = item
        try:
            image = images.decode(data, max_pixels)
        except images.ImageError as error:
            raise UserError(f"Image {key} of the comparisons can't be decoded: {error}. {comparisons.AGAIN}") from None
        return key, image.size, images.preprocess(image, resolution)

    decoded = map_early(pixels, encoded, DECODERS, 2 * max(map(len, plan), default=1))
    for keys in plan:
        batch = list(islice(decoded, len(keys)))
        if [key for key, _, _ in batch] != keys:
            raise AssertionError("the images came in another order than planned")
        x = torch.from_numpy(np.stack([array for _, _, array in batch]))
        moments = family.encode_image(x)
        if flips:
            moments |= {f"{name}_flip": value for name, value in family.encode_image(x.flip(-1)).items()}
        moments = {name: value.cpu() for name, value in moments.items()}
        for i, (key, (width, height), _) in enumerate(batch):
            tensors = {name: value[i] for name, value in moments.items()}
            tensors |= {COND + name: value for name, value in image_cond(family, width, height, resolution).items()}
            if flips:
                mirrored = image_cond(family, width, height, resolution, mirrored=True)
                tensors |= {COND_FLIP + name: value for name, value in mirrored.items()}
            yield Sample(key, tensors, {"width": width, "height": height})


def image_cond(
    family: Family, width: int, height: int, resolution: int, mirrored: bool = False
) -> dict[str, torch.Tensor]:
    """Returns an image's part of the condition, from its size in pixels and where in it, resized, the crop lies."""
    left, top, side = images.centre_square(width, height)
    if mirrored:  # the crop in the mirrored image, which is what the network sees
        left = width - side - left
    crop = round(top * resolution / side), round(left * resolution / side)
    return family.image_cond((height, width), crop, (resolution, resolution))


def prompt_texts(table: pa.Table) -> dict[str, str]:
    """Returns the distinct prompts of comparisons by key, and the empty prompt, which stands for a dropped one."""
    return {prompt_key(text): text for text in ["", *table["prompt"].unique().to_pylist()]}


def prompt_keys(prompts: Mapping[str, str]) -> list[str]:
    """Returns the keys of all prompt samples in order: prompts by key, then the family's unconditional condition."""
    return [*sorted(prompts), UNCONDITIONAL]


def prompt_samples(family: Family, prompts: Mapping[str, str], plan: Sequence[Sequence[str]]) -> Iterator[Sample]:
    """Yields the conditions of prompts, as the family gives them, for batches of keys (`prompt_keys`)."""
    for keys in plan:
        written = [key for key in keys if key != UNCONDITIONAL]
        if written:
            cond = {
                name: value.cpu() for name, value in family.encode_prompt([prompts[key] for key in written]).items()
            }
            for i, key in enumerate(written):
                yield Sample(key, {name: value[i] for name, value in cond.items()}, {"prompt": prompts[key]})
        if len(written) < len(keys):
            nothing = {name: value[0].cpu() for name, value in family.unconditional().items()}
            yield Sample(UNCONDITIONAL, nothing, {"unconditional": True})


def count_cut(family: Family, prompts: Mapping[str, str]) -> dict[str, int]:
    """Counts the prompts longer than a text encoder reads, by tokenizer; says on stderr that their end is cut off."""
    texts, counts = list(prompts.values()), dict[str, int]()
    for start in range(0, len(texts), COUNTED):
        for name, count in family.cut_prompts(texts[start : start + COUNTED]).items():
            counts[name] = counts.get(name, 0) + count
    for name, count in counts.items():
        if count:
            sys.stderr.write(
                f"precompute: {count:,} of {len(texts):,} prompts are longer than the text encoder reads ({name}); "
                "their end is cut off\n"
            )
    return counts


def map_early(function: Callable[[T], R], items: Iterable[T], threads: int, window: int) -> Iterator[R]:
    """Yields `map(function, items)`, done in threads, in order, with at most `window` items begun and not yet taken."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
