"""Supervised fine-tuning on the winners, the paper's baseline."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.diffusion.losses import errors, sft
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import PairMethod, watched
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
        error_w = self._errors(policy, batch.winners())
        logs = {}
        if log and reference is not None:
            with torch.no_grad():
                logs = watched(error_w, self._errors(policy, batch.losers()), reference, batch)
        return (batch.weight * (batch.strength > 0.5) * sft(error_w)).sum(), logs

    @staticmethod
    def _errors(policy: Denoise, batch: PairBatch) -> Tensor:
        return errors(policy(batch.x_t, batch.t, batch.cond), batch.target)


def build(settings: "Settings", context: Context) -> Method:
    """Builds fine-tuning on the winners of a run's pairs."""
    return SFT(context.source(PairSource))
