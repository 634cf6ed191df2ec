"""MaPO: preferences without a reference, beside fine-tuning on the winners (Hong et al. 2024, arXiv 2406.06424)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.diffusion.losses import mapo
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import PairMethod, watched
from diffalign.reference.reference import Reference, pair_errors

if TYPE_CHECKING:
    from diffalign.config.methods.mapo import Settings


@dataclass(frozen=True)
class MaPO(PairMethod):
    """Trains on pairs without a reference; `beta` weighs the preference against the winner's own error."""

    beta: float

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs winner and loser in one forward of the policy; the reference is asked for the logs only."""
        error_w, error_l = pair_errors(policy, batch)
        losses = mapo(error_w, error_l, self.beta, self.source.process.T, batch.strength)
        return (batch.weight * losses).sum(), watched(error_w, error_l, reference, batch) if log else {}


def build(settings: "Settings", context: Context) -> Method:
    """Builds MaPO on the pairs of a run."""
    return MaPO(context.source(PairSource), settings.beta)
