"""Supervised fine-tuning: on the winners, the paper's baseline, or on curated images, as Emu."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.data.batches.unpaired_batches import CuratedSource
from diffalign.diffusion.losses import sft
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import PairMethod, Stateless, prediction_errors, watched
from diffalign.reference.reference import Reference

if TYPE_CHECKING:
    from diffalign.config.methods.sft import Settings


@dataclass(frozen=True)
class SFT(PairMethod):
    """Minimises the denoising error on the winners of pairs, with the draws that DPO has for them.

    A tie has no winner: it counts nothing. A winner by votes counts like any other.
    """

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the policy on the winners; losers and the reference are asked for the logs only."""
        error_w = prediction_errors(policy, batch.winners())
        logs = {}
        if log and reference is not None:
            with torch.no_grad():
                logs = watched(error_w, prediction_errors(policy, batch.losers()), reference, batch)
        return (batch.weight * (batch.strength > 0.5) * sft(error_w)).sum(), logs


@dataclass(frozen=True)
class CuratedSFT(Stateless):
    """Minimises the denoising error on chosen images, which are no pairs: each counts 1, and there are no losers."""

    source: CuratedSource

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[PairBatch]:
        """Yields the images of a step, from the shards."""
        return self.source.at(step)

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the policy on the images; the reference isn't asked."""
        return sft(prediction_errors(policy, batch)).sum(), {}


def build(settings: "Settings", context: Context) -> Method:
    """Builds fine-tuning on the winners of a run's pairs, or on its curated images."""
    return CuratedSFT(context.source(CuratedSource)) if settings.curate else SFT(context.source(PairSource))
