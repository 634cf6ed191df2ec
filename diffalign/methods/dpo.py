"""Diffusion-DPO: the policy should improve on the winner's error more than on the loser's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.diffusion.losses import conventions, gradient_weight
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import PairMethod, preference_losses
from diffalign.reference.reference import Reference

if TYPE_CHECKING:
    from diffalign.config.methods.dpo import Settings


@dataclass(frozen=True)
class DPO(PairMethod):
    """Trains on pairs by Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908).

    `beta` is in the official code's convention: mean errors, beta / 2. With a `safeguard` mu the loser's gradient is
    scaled so that, on the outputs and at first order, the winner's error falls (SDPO, arXiv 2511.03317).
    """

    beta: float
    link: str = "sigmoid"
    safeguard: float | None = None

    def about(self) -> dict[str, float]:
        """Returns `beta`, and what it is in other code's terms."""
        return {"beta": self.beta, **conventions(self.beta, self.source.elements)}

    @property
    def pull(self) -> Callable[[Tensor], Tensor] | None:
        """Returns the link's slope at beta / 2 * margin; None for IPO, which pulls more the further a margin is off."""
        if self.link == "ipo":
            return None
        return lambda margin: gradient_weight(0.5 * self.beta * margin, self.link)

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs winner and loser in one forward of the policy, and compares their errors with the reference's."""
        losses, logs = preference_losses(policy, reference, batch, self.beta, self.link, self.safeguard)
        return (batch.weight * losses).sum(), logs


def build(settings: "Settings", context: Context) -> Method:
    """Builds Diffusion-DPO on the pairs of a run; UserError where a safeguard meets shares of votes."""
    source = context.source(PairSource)
    if settings.safeguard is not None and any(pair.strength < 1 for pair in source.pairs):
        raise UserError(
            f"{settings.method}.safeguard: expected null where pairs are shares of votes, since the loss may rise with "
            f"the margin then, got {settings.safeguard}"
        )
    return DPO(source, settings.beta, settings.link, settings.safeguard)
