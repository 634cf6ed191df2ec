"""Online DPO: Diffusion-DPO on the best and the worst of the policy's own pictures of each prompt."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch
from diffalign.diffusion.losses import conventions
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Logs, Method
from diffalign.methods.pairwise import preference_losses
from diffalign.methods.renoised import RenoisedMethod, opened_whole
from diffalign.reference.reference import Reference

if TYPE_CHECKING:
    from diffalign.config.methods.online_dpo import Settings


@dataclass
class OnlineDPO(RenoisedMethod):
    """Minimises Diffusion-DPO's loss at noise levels that winner and loser share; equal rewards count nothing."""

    settings: "Settings"

    def about(self) -> dict[str, float]:
        """Returns `beta`, and what it is in other code's terms."""
        return {"beta": self.settings.beta, **conventions(self.settings.beta, self.source.elements)}

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[PairBatch]:
        """Yields the pairs at each of their noise levels, so many a forward as fit; a pair is two pictures."""
        for found, number, draw in self.extremes(policy, step, max(1, self.source.places.micro_batch_size // 2)):
            x0 = torch.cat([found.x0_best, found.x0_worst])
            yield replace(self.noised(found.best, x0, number, draw, grouped=True), weight=found.differ)

    def loss(self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool) -> tuple[Tensor, Logs]:
        """Returns the pairs' losses, summed, each times its group's pictures, and what DPO logs, of all pairs alike."""
        how = self.settings
        losses, logs = preference_losses(policy, reference, batch, how.beta, how.link)
        logs = {name: value * self.share for name, value in logs.items()}
        return (batch.weight * losses).sum() * self.share, logs | self.pictures(len(batch) * self.share, log)


def build(settings: "Settings", context: Context) -> Method:
    """Builds online DPO on a run's prompts and rewards."""
    return OnlineDPO(*opened_whole(settings, context), settings)
