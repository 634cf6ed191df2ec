"""Parts that methods on pairs share: their batches, and the metrics that are logged beside any loss.

Shapes: B pairs in a micro-batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.diffusion.losses import (
    diffusion_dpo,
    errors,
    implicit_accuracy,
    implicit_margin,
    loser_scale,
    with_gradient_scaled,
)
from diffalign.diffusion.process import Denoise
from diffalign.reference.reference import Reference


class Stateless:
    """Keeps nothing from step to step, and has no beta; a subclass adds batches and the loss."""

    def about(self) -> dict[str, float]:
        """Returns what its parameters are in other code's terms: nothing, where they are the same everywhere."""
        return {}

    @property
    def pull(self) -> Callable[[Tensor], Tensor] | None:
        """Returns None: the loss keeps pulling however large a margin is."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Returns nothing: a step's batches and loss are functions of its number and the weights."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Does nothing, as there is no state."""


@dataclass(frozen=True)
class PairMethod(Stateless):
    """Reads batches of pairs; a subclass adds the loss."""

    source: PairSource

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[PairBatch]:
        """Yields the pairs of a step, from the shards."""
        return self.source.at(step)


def preference_losses(
    policy: Denoise,
    reference: Reference | None,
    batch: PairBatch,
    beta: float,
    link: str,
    safeguard: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns Diffusion-DPO's losses [B] and the logs of a batch; the keywords are as `methods.dpo.DPO`'s.

    Winner and loser go through one forward of the policy, and their errors are compared with the reference's.
    """
    if reference is None:
        raise ValueError("Diffusion-DPO: expected a reference, got none")
    prediction = policy(batch.x_t, batch.t, batch.cond)
    error_w, error_l = errors(prediction, batch.target).chunk(2)
    error_w_ref, error_l_ref = reference(batch)
    if safeguard is not None:
        residual_w, residual_l = (prediction - batch.target).chunk(2)
        error_l = with_gradient_scaled(error_l, loser_scale(residual_w, residual_l, safeguard))
    losses, margin = diffusion_dpo(error_w, error_l, error_w_ref, error_l_ref, beta, batch.strength, link)
    return losses, changes(error_w, error_l, error_w_ref, error_l_ref, margin)


def prediction_errors(policy: Denoise, batch: PairBatch) -> Tensor:
    """Returns the policy's error on each row of a batch."""
    return errors(policy(batch.x_t, batch.t, batch.cond), batch.target)


@torch.no_grad()
def watched(error_w: Tensor, error_l: Tensor, reference: Reference | None, batch: PairBatch) -> dict[str, Tensor]:
    """Returns `changes` for a loss that needs no reference, which is asked for the logs alone; empty without one."""
    if reference is None:
        return {}
    four = (error_w, error_l, *reference(batch))
    return changes(*four, implicit_margin(*four))


def changes(
    error_w: Tensor, error_l: Tensor, error_w_ref: Tensor, error_l_ref: Tensor, margin: Tensor
) -> dict[str, Tensor]:
    """Returns the metrics logged beside the loss, as sums over the batch.

    The winner's and the loser's error change against the reference, apart: a margin that grows because both get worse,
    the loser faster, looks fine in the loss and in the accuracy while the images get worse.
    """
    return {
        "implicit_accuracy": implicit_accuracy(margin).sum().detach(),
        "winner_change": (error_w - error_w_ref).sum().detach(),
        "loser_change": (error_l - error_l_ref).sum().detach(),
    }
