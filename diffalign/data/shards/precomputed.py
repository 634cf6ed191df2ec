"""Makes a folder of shards from a folder of comparisons: every image and prompt through the frozen encoders, once."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from diffalign.core import files, publishing
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards import encode, reader, writer
from diffalign.models import family as families
from diffalign.runtime.environment import default_device


@dataclass(frozen=True)
class How:
    """The section `precompute` of params: pixels a side, mirrored images too, images in a forward and in a shard."""

    resolution: int
    flips: bool
    batch_size: int
    shard_size: int


def make(stage: str, folder: Path, out: Path, model: tuple[str, str], how: How, max_pixels: int) -> None:
    """Writes `out` from the comparisons in `folder`, going on after the last finished shard of a killed attempt.

    `model` is a family and a model's folder; `stage` names the work folder. `max_pixels` is a guard that whoever wrote
    the comparisons has applied already: it can't change what is written. Raises UserError for an unreadable image,
    encodings that aren't finite, a full disk.
    """
    name, path = model
    table = comparisons.read(folder)
    keys, prompts = encode.image_keys(folder, table), encode.prompt_texts(table)
    families.find(name).check(Path(path), None).latent(how.resolution)
    family = families.load(name, path, ("vae", "text"), default_device())
    fingerprint = reader.fingerprint(family.fingerprint(), how.resolution, how.flips)
    inputs = {"settings": asdict(how), "fingerprint": fingerprint, "images": keys, "prompts": sorted(prompts)}

    def encode_images(unfinished: list[list[str]]) -> Iterator[writer.Sample]:
        return encode.image_samples(
            family,
            comparisons.iter_images(folder, {key for shard in unfinished for key in shard}),
            encode.batches(unfinished, how.batch_size),
            how.resolution,
            how.flips,
            max_pixels,
        )

    def encode_prompts(unfinished: list[list[str]]) -> Iterator[writer.Sample]:
        return encode.prompt_samples(family, prompts, encode.batches(unfinished, how.batch_size))

    work = files.work_folder(stage, inputs, [], {"model.family": name})
    with files.lock(work):
        records: dict[reader.Kind, list[writer.Record]] = {
            "images": writer.write_shards(work, "images", keys, how.shard_size, encode_images),
            "prompts": writer.write_shards(
                work, "prompts", encode.prompt_keys(prompts), how.shard_size, encode_prompts
            ),
        }
        writer.finish(work, records, fingerprint, encode.count_cut(family, prompts))
        publishing.publish(work / "out", out)
        shutil.rmtree(work)
