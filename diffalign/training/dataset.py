"""A training's sources of batches: one rank's share of every global batch, opened when a method asks for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.data.batches import pairs
from diffalign.data.batches.image_labels import ImageLabel, image_labels
from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.data.batches.pairs import Pair, make_pairs
from diffalign.data.batches.prefetch import Prefetcher, when_asked
from diffalign.data.batches.unpaired_batches import CuratedSource, UnpairedSource
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import Shards
from diffalign.diffusion.process import Process
from diffalign.diffusion.rng import FixedDraws
from diffalign.diffusion.timesteps import Times
from diffalign.reference import cache
from diffalign.rollouts.source import RolloutSource
from diffalign.runtime.throughput import Read, Throughput
from diffalign.training import curation
from diffalign.training.learner import Learner, Old, keep_old
from diffalign.training.rollout_source import open_rollouts
from diffalign.training.spec import Spec

Source = TypeVar("Source")


def open_pairs(spec: Spec, learner: Learner, read: Read[PairBatch]) -> PairSource:
    """Opens the train split's pairs; UserError where there are none, or where kept errors aren't theirs."""
    pairs = training_pairs(spec)
    fixed, errors_ref = kept_errors(spec, pairs)
    whose, tokens = raters_of(spec), spec.policy.rater_tokens
    drop = tokens.drop if tokens else 0.0
    how = settings(spec, learner) | {"read": read, "raters": whose, "rater_drop": drop}
    return PairSource(pairs, **how, fixed=fixed, errors_ref=errors_ref)


def open_images(spec: Spec, learner: Learner, read: Read[PairBatch]) -> UnpairedSource:
    """Opens the train split's images one by one; UserError where none are desirable, or none undesirable."""
    return UnpairedSource(*training_images(spec), **settings(spec, learner), read=read)


def open_rolled(spec: Spec, learner: Learner, read: Read[PairBatch]) -> RolloutSource:
    """Opens the policy's own pictures, which are made when they're needed: nothing is read ahead."""
    return open_rollouts(spec, learner)


def open_curated(spec: Spec, learner: Learner, read: Read[PairBatch]) -> CuratedSource:
    """Opens the images that the stage chose before the workers started."""
    assert spec.curated is not None, "a policy with curate has a list"
    kept = [ImageLabel(one.prompt, one.image, True) for one in curation.read(spec.curated).kept]
    return CuratedSource(kept, **settings(spec, learner), read=read)


SOURCES: dict[type[Any], Callable[[Spec, Learner, Read[Any]], Any]] = {
    PairSource: open_pairs,
    UnpairedSource: open_images,
    RolloutSource: open_rolled,
    CuratedSource: open_curated,
}
"""The sources of batches: each class and the function that opens it for a rank of a run."""


@dataclass
class Sources:
    """Opens the sources that a training's method asks for, each once (`methods.method.Context`)."""

    spec: Spec
    learner: Learner
    pace: Throughput = field(default_factory=Throughput)
    """Times what is read from any of them."""
    opened: dict[type[Any], Any] = field(default_factory=dict)

    def source(self, kind: type[Source], passes: int = 1) -> Source:
        """Returns the source that is a class of SOURCES, opened at the first call; KeyError for another class.

        On a GPU a thread reads ahead. On a CPU it would take from the training what it gives.
        """
        if kind not in self.opened:
            on_gpu = self.learner.accelerator.device.type == "cuda"
            reader: Read[Any] = Prefetcher(self.spec.policy.steps, passes=passes) if on_gpu else when_asked
            self.opened[kind] = SOURCES[kind](self.spec, self.learner, self.pace.timed(reader))
        found: Source = self.opened[kind]
        return found

    def old(self) -> Old:
        """Returns a second copy of the policy's weights, which checkpoints keep too."""
        return keep_old(self.learner)

    def counts(self) -> dict[str, int]:
        """Returns how much there is to learn from in the open sources, by kind: pairs, say."""
        return {name: count for source in self.opened.values() for name, count in source.counts.items()}


def pair_source(spec: Spec, learner: Learner, pairs: list[Pair]) -> PairSource:
    """Returns any pairs in the shards as a source with the policy's settings."""
    return PairSource(pairs, **settings(spec, learner), raters=raters_of(spec))


def raters_of(spec: Spec) -> dict[str, int] | None:
    """Returns the row of each comparison's rater among the policy's vectors, by its id; None where it has none."""
    if spec.policy.rater_tokens is None:
        return None
    rows, table = {name: row for row, name in enumerate(spec.token_rows)}, comparisons.read(Path(spec.comparisons))
    raters = zip(table["comparison_id"].to_pylist(), table["rater_id"].to_pylist(), strict=True)
    return {name: rows[rater] for name, rater in raters if rater in rows}


def settings(spec: Spec, learner: Learner) -> dict[str, Any]:
    """Returns what all sources have; UserError where the processes can't share a global batch."""
    policy, accelerator = spec.policy, learner.accelerator
    share, rest = divmod(policy.batch_size, accelerator.num_processes)
    if rest:
        raise UserError(
            f"policies.{spec.name}.batch_size: expected a multiple of the {accelerator.num_processes} processes, "
            f"got {policy.batch_size}"
        )
    micro_steps = math.ceil(share / policy.micro_batch_size)
    return {
        "images": Shards(Path(spec.shards), "images"),
        "prompts": Shards(Path(spec.shards), "prompts"),
        "times": make_times(policy, learner.model.process),
        "seed": policy.seed,
        "batch_size": policy.batch_size,
        "micro_batch_size": math.ceil(share / micro_steps),  # as few micro-batches as can be, the last a smaller one
        "prompt_drop": policy.prompt_drop,
        "flip": policy.flip,
        "device": accelerator.device,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
    }


def kept_errors(spec: Spec, pairs: list[Pair]) -> tuple[FixedDraws | None, cache.Errors | None]:
    """Returns the pairs' own draws and the reference's errors [N, K, 2] at them; None, None unless it is cached."""
    if spec.policy.reference != "cached":
        return None, None
    folder, swapped = Path(spec.reference), spec.policy.swap_labels
    errors = cache.read(folder, [pair.pair_id for pair in pairs])
    made = cache.read_manifest(folder)["fingerprint"]
    return FixedDraws(made["seed"], made["draws"], swapped), errors[:, :, ::-1].copy() if swapped else errors


def make_times(policy: Trained, process: Process) -> Times:
    """Returns how a policy's settings say that t is drawn."""
    low, high = policy.timesteps
    return Times(process, low, high, policy.timestep_density, policy.batch_size if policy.stratified else 0)


def held_out_pairs(spec: Spec) -> list[Pair]:
    """Returns all pairs of the validation split by the rule, as their raters answered, in a fixed random order."""
    table = comparisons.read(Path(spec.comparisons))
    return pairs.held_out_pairs(table, "validation", spec.pairs.rule, spec.pairs.raters, spec.pairs.axes)


def training_pairs(spec: Spec) -> list[Pair]:
    """Returns the train split's pairs by the rule, winners and losers exchanged where the policy says so."""
    table, how = comparisons.read(Path(spec.comparisons)), spec.pairs
    pairs = make_pairs(table, "train", how.rule, how.raters, how.weights, how.flagged, how.axes, how.ties, how.sources)
    if not pairs:
        raise UserError(
            f"{spec.comparisons} has no untied comparison in the train split under the rule {rule_of(spec)}: "
            "nothing to learn from. See metrics/ingest.json for what became of the rows."
        )
    if spec.policy.swap_labels:
        return [replace(pair, image_w=pair.image_l, image_l=pair.image_w) for pair in pairs]
    return pairs


def training_images(spec: Spec) -> tuple[list[ImageLabel], list[ImageLabel]]:
    """Returns the train split's desirable and undesirable images by the rule, exchanged where the policy says so."""
    table, how = comparisons.read(Path(spec.comparisons)), spec.pairs
    found = image_labels(table, "train", how.rule, how.raters, how.flagged, how.axes)
    desirable, undesirable = ([each for each in found if each.desirable is wanted] for wanted in (True, False))
    if not (desirable and undesirable):
        raise UserError(
            f"{spec.comparisons}: policies.{spec.name} expects desirable and undesirable images in the train split, "
            f"found {len(desirable):,} and {len(undesirable):,} under the rule {rule_of(spec)}. See "
            "metrics/ingest.json for what became of the rows."
        )
    return (undesirable, desirable) if spec.policy.swap_labels else (desirable, undesirable)


def rule_of(spec: Spec) -> str:
    """Returns the section `pairs` of a run in one line, for messages."""
    return ", ".join(f"{name} {value}" for name, value in spec.pairs.model_dump().items())
