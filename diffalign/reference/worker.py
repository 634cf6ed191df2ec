"""Measures the reference's errors at the pairs' own draws, part by part, in 1..N processes that share nothing.

`python -m diffalign.reference.worker WORK/spec.json` is one worker of several that `stages/reference.py` launches.
A part is a file WORK/part-*.safetensors, written whole: what a killed attempt finished isn't computed again, and how
many processes there are changes nothing. Shapes: N pairs, K draws a pair.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from diffalign.config.pairs import Pairs
from diffalign.config.reference import Reference
from diffalign.config.values import Model
from diffalign.core import collector
from diffalign.core.errors import UserError
from diffalign.core.files import write_bytes, write_text
from diffalign.core.progress import Progress
from diffalign.data.batches.pair_batches import PairSource, Place
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.batches.prefetch import ahead
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import Shards
from diffalign.diffusion.rng import FixedDraws
from diffalign.diffusion.timesteps import Times
from diffalign.models import family as families
from diffalign.models import inits
from diffalign.reference.cache import Errors
from diffalign.reference.reference import live
from diffalign.runtime import devices
from diffalign.runtime.parallel import frozen
from diffalign.runtime.processes import die_with_parent

PART = 4096
"""Draws a part, about: whole batches."""


class Spec(Model):
    """Says what to measure; paths are relative to the working folder."""

    family: str
    model: str
    settings: Reference
    pairs: Pairs
    """Which pairs; their weights don't matter."""
    comparisons: str
    shards: str
    device: str
    precision: str
    compiled: bool
    part: int = PART


def run(spec: Spec, work: Path, rank: int = 0, world: int = 1) -> None:
    """Measures this rank's share of the parts that aren't there yet; raises UserError for errors that aren't finite."""
    device = torch.device(spec.device, rank) if spec.device == "cuda" else torch.device(spec.device)
    devices.set_up(device, spec.precision)
    model = families.load(spec.family, spec.model, (), device)
    inits.load_denoiser(model, spec.family, spec.model, spec.settings.init)
    model.denoiser = frozen(model.denoiser, spec.precision == "bf16", spec.compiled)  # as training has its reference
    reference, source = live(model.denoise), make_source(spec, model, device)
    # Shared out before looking at what is there: meanwhile, the others finish some.
    share = parts(spec, len(source.pairs))[rank::world]
    mine = [part for part in share if not part_file(work, part[0].start).exists()]
    progress = Progress(f"reference {rank + 1}/{world}" if world > 1 else "reference", sum(map(count, mine)))
    made = (source.batch([Place(*divmod(i, spec.settings.draws)) for i in each]) for part in mine for each in part)
    batches = ahead(made, 2) if device.type == "cuda" else made  # on a CPU a thread would take what it gives
    for part in mine:
        found = []
        for each in part:
            with autocast(spec):
                found.append(torch.stack(reference(next(batches)), dim=1))
            progress.update(len(each))
        save_part(part_file(work, part[0].start), torch.cat(found).cpu().numpy(), spec)


def make_source(spec: Spec, model: families.Family, device: torch.device) -> PairSource:
    """Returns the train split's pairs with their own draws, for `batch` alone: there are no steps here."""
    how = spec.settings
    size, (low, high) = how.batch_size, how.timesteps
    return PairSource(
        pairs=training_pairs(spec),
        images=Shards(Path(spec.shards), "images"),
        prompts=Shards(Path(spec.shards), "prompts"),
        times=Times(model.process, low, high, how.timestep_density),
        seed=how.seed,
        batch_size=size,
        micro_batch_size=size,
        prompt_drop=how.prompt_drop,
        flip=how.flip,
        device=device,
        fixed=FixedDraws(how.seed, how.draws),
    )


def training_pairs(spec: Spec) -> list[Pair]:
    """Returns the train split's pairs by the rule, in their order."""
    table, how = comparisons.read(Path(spec.comparisons)), spec.pairs
    return make_pairs(table, "train", how.rule, how.raters, flagged=how.flagged, axes=how.axes, ties=how.ties)


def parts(spec: Spec, pairs: int) -> list[list[range]]:
    """Returns all N * K draws, draw k of pair n being number n * K + k, in batches, in parts of whole batches."""
    total, size = pairs * spec.settings.draws, spec.settings.batch_size
    batches = [range(start, min(start + size, total)) for start in range(0, total, size)]
    each = max(spec.part // size, 1)
    return [batches[start : start + each] for start in range(0, len(batches), each)]


def count(part: list[range]) -> int:
    """Returns how many draws a part has."""
    return part[-1].stop - part[0].start


def part_file(work: Path, start: int) -> Path:
    """Returns the file of the part that begins with a draw."""
    return work / f"part-{start:012d}.safetensors"


def save_part(path: Path, errors: Errors, spec: Spec) -> None:
    """Writes a part [n, 2] atomically."""
    if not np.isfinite(errors).all():
        raise UserError(
            f"The reference {spec.settings.init} has errors that are no numbers or infinite, computed in "
            f"{spec.precision}: are its weights whole, and in a precision that it works in?"
        )
    write_bytes(path, safetensors.numpy.save({"errors": errors}))


def collect(spec: Spec, work: Path, pairs: int) -> Errors:
    """Returns the errors [N, K, 2] from all parts."""
    found: Iterator[Errors] = (
        safetensors.numpy.load_file(part_file(work, part[0].start))["errors"] for part in parts(spec, pairs)
    )
    return np.concatenate(list(found)).reshape(pairs, spec.settings.draws, 2)


def autocast(spec: Spec) -> AbstractContextManager[Any]:
    """Returns a context in the precision of training's forwards."""
    return torch.autocast(spec.device, torch.bfloat16, enabled=spec.precision == "bf16")


def main() -> None:
    """Runs one worker of several; a user's error goes to WORK/error.txt for the stage to raise."""
    die_with_parent()
    collector.rare_while_loading()
    path = Path(sys.argv[1])
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        run(Spec.model_validate_json(path.read_text()), path.parent, rank, world)
    except UserError as error:
        write_text(path.parent / "error.txt", str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
