"""Diffusion-KTO: from images that were liked or disliked, without pairs (Li et al. 2024, arXiv 2404.04465).

Shapes: B desirable and as many undesirable images in a micro-batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch
from diffalign.data.batches.unpaired_batches import UnpairedSource
from diffalign.diffusion.losses import diffusion_kto, implicit_margin, reference_point
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Method
from diffalign.methods.pairwise import Stateless, changes
from diffalign.reference.reference import Reference, pair_errors

if TYPE_CHECKING:
    from diffalign.config.methods.kto import Settings


@dataclass(frozen=True)
class KTOBatch:
    """Holds a micro-batch, the reference's errors on it and the reference point."""

    images: PairBatch
    """B desirable images, then B undesirable ones; unlike a pair's, their draws have nothing in common."""
    reference: tuple[Tensor, Tensor]
    """The reference's errors [B] on the desirable and on the undesirable ones."""
    z: Tensor
    """The reference point of the global batch, a scalar."""


def over_processes(value: Tensor) -> Tensor:
    """Sums a tensor over all processes of training, in place; returns it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


@dataclass(frozen=True)
class KTO(Stateless):
    """Trains on labelled images. `beta` is as in DPO (the authors' code takes no half), `desirable_share` their gamma.

    The paper draws a desirable image with probability gamma, an undesirable one otherwise. Here both come in equal
    numbers and count gamma and 1 - gamma, in the loss and in z: the same expectation, with less variance.
    """

    source: UnpairedSource
    beta: float
    desirable_share: float
    total: Callable[[Tensor], Tensor] = over_processes
    """From this process's sums to those over all processes."""

    def about(self) -> dict[str, float]:
        """Returns `beta`, and what it is for summed errors and in the authors' code."""
        half = self.beta / 2
        return {"beta": self.beta, "summed": half / self.source.elements, "diffusion_kto": half}

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[KTOBatch]:
        """Yields the images of a step, after a first pass over all of them, without gradients, for z.

        The first pass keeps the reference's errors, so the reference runs once and the policy twice. Micro-batches are
        made again, not kept: the source is a function of the step.
        """
        if reference is None:
            raise ValueError("Diffusion-KTO: expected a reference, got none")
        improvements, kept = self.first_pass(policy, reference, step)
        z = self.z(self.total(improvements))
        for images, errors in zip(self.source.at(step), kept, strict=True):
            yield KTOBatch(images, errors, z)

    @torch.no_grad()
    def first_pass(
        self, policy: Denoise, reference: Reference, step: int
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Sums [2] of E_ref - E over this process's desirable and undesirable images; its errors of the reference."""
        improvements, kept = torch.zeros(2, device=self.source.device), []
        for images in self.source.at(step):
            errors, errors_ref = pair_errors(policy, images), reference(images)
            improvements += torch.stack([(ref - own).sum() for own, ref in zip(errors, errors_ref, strict=True)])
            kept.append(errors_ref)
        return improvements, kept

    def z(self, improvements: Tensor) -> Tensor:
        """Returns the reference point from the sums [2] of E_ref - E over the global batch: desirable, undesirable."""
        means = improvements / self.source.batch_size
        return reference_point(self.desirable_share * means[0] + (1 - self.desirable_share) * means[1])

    def loss(
        self, policy: Denoise, reference: Reference | None, batch: KTOBatch, log: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs both kinds of images in one forward of the policy.

        The logs are as those of methods on pairs, of images that have nothing in common: `implicit_accuracy` is how
        often a desirable one's reward is above an undesirable one's.
        """
        error_w, error_l = pair_errors(policy, batch.images)
        error_w_ref, error_l_ref = batch.reference
        yes, no = (torch.full_like(error_w, value, dtype=torch.bool) for value in (True, False))
        liked = diffusion_kto(error_w, error_w_ref, yes, self.beta, batch.z)
        disliked = diffusion_kto(error_l, error_l_ref, no, self.beta, batch.z)
        margin = implicit_margin(error_w, error_l, error_w_ref, error_l_ref)
        logs = changes(error_w, error_l, error_w_ref, error_l_ref, margin)
        return (self.desirable_share * liked + (1 - self.desirable_share) * disliked).sum(), logs


def build(settings: "Settings", context: Context) -> Method:
    """Builds Diffusion-KTO on the images of a run, which it reads twice a step: once for z."""
    return KTO(context.source(UnpairedSource, passes=2), settings.beta, settings.desirable_share)
