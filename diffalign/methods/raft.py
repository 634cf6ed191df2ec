"""RAFT: fine-tuning on the best of the policy's own pictures of each prompt (arXiv 2304.06767)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch
from diffalign.diffusion.losses import sft
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Logs, Method
from diffalign.methods.pairwise import prediction_errors
from diffalign.methods.renoised import RenoisedMethod, opened_whole
from diffalign.reference.reference import Reference

if TYPE_CHECKING:
    from diffalign.config.methods.raft import Settings


@dataclass
class RAFT(RenoisedMethod):
    """Minimises the denoising error on each group's best picture; a group of equal rewards counts nothing."""

    settings: "Settings"

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[PairBatch]:
        """Yields the best pictures at each of their noise levels, so many a forward as fit."""
        for found, number, draw in self.extremes(policy, step, self.source.places.micro_batch_size):
            yield replace(self.noised(found.best, found.x0_best, number, draw, grouped=True), weight=found.differ)

    def loss(self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool) -> tuple[Tensor, Logs]:
        """Returns the errors on the best pictures, summed; each stands for its group."""
        losses = batch.weight * sft(prediction_errors(policy, batch))
        return losses.sum() * self.share, self.pictures(len(batch) * self.share, log)


def build(settings: "Settings", context: Context) -> Method:
    """Builds RAFT on a run's prompts and rewards."""
    return RAFT(*opened_whole(settings, context), settings)
