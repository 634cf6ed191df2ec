"""Diffusion-DPO: the policy should improve on the winner's error more than on the loser's."""

from dataclasses import dataclass

from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch
from diffalign.diffusion.losses import conventions, diffusion_dpo, errors, loser_scale, with_gradient_scaled
from diffalign.diffusion.process import Denoise
from diffalign.methods.pairwise import PairMethod, changes
from diffalign.reference.reference import Reference


@dataclass(frozen=True)
class DPO(PairMethod):
    """Wallace et al. 2023; `beta` in the official code's convention (mean errors, beta / 2).

    With a `safeguard` mu the loser's gradient is scaled so that, on the outputs and at first order, the winner's error
    falls (SDPO).
    """

    beta: float
    link: str = "sigmoid"
    safeguard: float | None = None

    def about(self) -> dict[str, float]:
        """What `beta` is in other code's terms."""
        return conventions(self.beta, self.source.elements)

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: PairBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Winner and loser in one forward of the policy; the reference's errors on both."""
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
