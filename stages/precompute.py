"""precompute: encodes every image and prompt of the comparisons once, with the frozen encoders, into shards."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files, publishing
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards import encode, reader, writer
from diffalign.models import family as families
from diffalign.models.agreement import check_inits
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, OUT = Path("data/comparisons"), Path("data/shards")


def run(params: "Params") -> None:
    """Writes `data/shards` from `data/comparisons`, going on after the last finished shard of a killed attempt.

    Raises UserError for a model folder that isn't one, an unreadable image, encodings that aren't finite, a full disk.
    """
    publishing.check_target(OUT)
    settings, model = params.precompute, params.model
    table = comparisons.read(COMPARISONS)
    keys, prompts = encode.image_keys(COMPARISONS, table), encode.prompt_texts(table)
    inits = {f"policies.{name}.init": each.init for name, each in params.policies.items()}
    check_inits(model.family, model.path, inits)
    families.find(model.family).check(Path(model.path), None).latent(settings.resolution)
    family = families.load(model.family, model.path, ("vae", "text"), default_device())
    fingerprint = reader.fingerprint(family.fingerprint(), settings.resolution, settings.flips)
    inputs = {"settings": settings.model_dump(), "fingerprint": fingerprint, "images": keys, "prompts": sorted(prompts)}

    def encode_images(unfinished: list[list[str]]) -> Iterator[writer.Sample]:
        return encode.image_samples(
            family,
            comparisons.iter_images(COMPARISONS, {key for shard in unfinished for key in shard}),
            encode.batches(unfinished, settings.batch_size),
            settings.resolution,
            settings.flips,
            # A guard that ingest, which depends on it, has applied already: it can't change what is written.
            params.data.max_image_pixels,
        )

    def encode_prompts(unfinished: list[list[str]]) -> Iterator[writer.Sample]:
        return encode.prompt_samples(family, prompts, encode.batches(unfinished, settings.batch_size))

    work = files.work_folder("precompute", inputs, [], {"model.family": model.family})
    size = settings.shard_size
    with files.lock(work):
        records: dict[reader.Kind, list[writer.Record]] = {
            "images": writer.write_shards(work, "images", keys, size, encode_images),
            "prompts": writer.write_shards(work, "prompts", encode.prompt_keys(prompts), size, encode_prompts),
        }
        writer.finish(work, records, fingerprint, encode.count_cut(family, prompts))
        publishing.publish(work / "out", OUT)
        shutil.rmtree(work)
