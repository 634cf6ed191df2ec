"""precompute: every image and every prompt of the comparisons once through the frozen encoders, into shards."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards import reader as shards
from diffalign.data.shards import writer as shard_writer
from diffalign.data.shards.writer import Sample
from diffalign.models import family as families
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, OUT = Path("data/comparisons"), Path("data/shards")
DECODERS = min(8, os.cpu_count() or 1)
T = TypeVar("T")
R = TypeVar("R")


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `data/shards` from `data/comparisons`, going on after the last finished shard of a killed attempt.

    Raises UserError for a model folder that isn't one, an unreadable image, a full disk.
    """
    publishing.check_target(OUT)
    settings, model = params.precompute, params.model
    table = comparisons.read(COMPARISONS)
    keys = image_keys(table)
    prompts = {shards.prompt_key(text): text for text in ["", *table["prompt"].unique().to_pylist()]}
    family = families.load(model.family, model.path, ("vae", "text"), default_device())
    fingerprint = shards.fingerprint(family.fingerprint(), settings.resolution, settings.flips)
    inputs = {"settings": settings.model_dump(), "fingerprint": fingerprint, "images": keys, "prompts": sorted(prompts)}

    def encode_images(unfinished: list[list[str]]) -> Iterator[Sample]:
        return image_samples(
            family,
            comparisons.iter_images(COMPARISONS, {key for shard in unfinished for key in shard}),
            batches(unfinished, settings.batch_size),
            settings.resolution,
            settings.flips,
            # A guard that ingest, which depends on it, has applied already: it can't change what is written.
            params.data.max_image_pixels,
        )

    def encode_prompts(unfinished: list[list[str]]) -> Iterator[Sample]:
        return prompt_samples(family, prompts, batches(unfinished, settings.batch_size))

    work = files.work_folder("precompute", inputs, [])
    with files.lock(work):
        records: dict[shards.Kind, list[shard_writer.Record]] = {
            "images": shard_writer.write_shards(work, "images", keys, settings.shard_size, encode_images),
            "prompts": shard_writer.write_shards(work, "prompts", sorted(prompts), settings.shard_size, encode_prompts),
        }
        shard_writer.finish(work, records, fingerprint)
        publishing.publish(work / "out", OUT)
        shutil.rmtree(work)


def image_keys(table: pa.Table) -> list[str]:
    """The images that the comparisons show, each once, in the order in which ingest stored them.

    Storage order, so that they can be streamed. Raises UserError if some aren't stored.
    """
    wanted = set(table["image_a"].unique().to_pylist()) | set(table["image_b"].unique().to_pylist())
    keys: dict[str, None] = {}
    for path in sorted(COMPARISONS.glob(comparisons.IMAGES)):
        try:
            stored = pq.read_table(path, columns=["sha256"])["sha256"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} can't be read: {error}. Make it again: dvc repro --force ingest") from error
        keys |= dict.fromkeys(key for key in stored if key in wanted)
    missing = wanted.difference(keys)
    if missing:
        raise UserError(
            f"{COMPARISONS}: expected the {len(wanted)} images of the comparisons in images-*.parquet, "
            f"{len(missing)} are missing, {min(missing)} for one. Make them again: dvc repro --force ingest"
        )
    return list(keys)


def batches(unfinished: Sequence[Sequence[str]], size: int) -> list[list[str]]:
    """The keys in batches that no shard's border cuts, so that a batch is the same wherever a killed run stopped."""
    return [list(shard[i : i + size]) for shard in unfinished for i in range(0, len(shard), size)]


def image_samples(
    family: families.Family,
    encoded: Iterable[tuple[str, bytes]],
    plan: Sequence[Sequence[str]],
    resolution: int,
    flips: bool,
    max_pixels: int,
) -> Iterator[Sample]:
    """The moments of the images' latents, mean and logvar [C, h, w], and with flips those of the mirrored images.

    With each, what the image gives to its condition. Images are decoded in a few threads, at most two batches ahead.
    """

    def pixels(item: tuple[str, bytes]) -> tuple[str, tuple[int, int], np.ndarray]:
        key, data = item
        try:
            image = images.decode(data, max_pixels)
        except images.ImageError as error:
            raise UserError(
                f"Image {key} of {COMPARISONS} can't be decoded: {error}. Make it again: dvc repro --force ingest"
            ) from None
        return key, image.size, images.preprocess(image, resolution)

    decoded = ahead(pixels, encoded, DECODERS, 2 * max(map(len, plan), default=1))
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
            tensors |= {shards.COND + name: value for name, value in cond(family, width, height, resolution).items()}
            if flips:
                mirrored = cond(family, width, height, resolution, mirrored=True)
                tensors |= {shards.COND_FLIP + name: value for name, value in mirrored.items()}
            yield Sample(key, tensors, {"width": width, "height": height})


def cond(
    family: families.Family, width: int, height: int, resolution: int, mirrored: bool = False
) -> dict[str, torch.Tensor]:
    """What an image gives to its condition: its size, and where in it, resized, the crop lies."""
    left, top, side = images.centre_square(width, height)
    if mirrored:  # the crop in the mirrored image, which is what the network sees
        left = width - side - left
    crop = round(top * resolution / side), round(left * resolution / side)
    return family.image_cond((height, width), crop, (resolution, resolution))


def prompt_samples(family: families.Family, prompts: dict[str, str], plan: Sequence[Sequence[str]]) -> Iterator[Sample]:
    """The conditions of the prompts, by key, as the family gives them."""
    for keys in plan:
        cond = {name: value.cpu() for name, value in family.encode_prompt([prompts[key] for key in keys]).items()}
        for i, key in enumerate(keys):
            yield Sample(key, {name: value[i] for name, value in cond.items()}, {"prompt": prompts[key]})


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int, window: int) -> Iterator[R]:
    """`map(function, items)` in threads, in order, with at most `window` items begun and not yet taken."""
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
