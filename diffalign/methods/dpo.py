"""Diffusion-DPO: the policy should improve on the winner's error more than on the loser's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.diffusion.losses import (
    conventions,
    diffusion_dpo,
    errors,
    gradient_weight,
    loser_scale,
    with_gradient_scaled,
)
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import PairMethod, changes
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
        if reference is None:
            raise ValueError("Diffusion-DPO: expected a reference, got none")
        prediction = policy(batch.x_t, batch.t, batch.cond)
        error_w, error_l = errors(prediction, batch.target).chunk(2)
        error_w_ref, error_l_ref = reference(batch)
        if self.safeguard is not None:
            residual_w, residual_l = (prediction - batch.target).chunk(2)
            error_l = with_gradient_scaled(error_l, loser_scale(residual_w, residual_l, self.safeguard))
        losses, margin = diffusion_dpo(error_w, error_l, error_w_ref, error_l_ref, self.beta, batch.strength, self.link)
        logs = changes(error_w, error_l, error_w_ref, error_l_ref, margin)
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
