"""The reference that a policy is held to: its errors on a batch of pairs and, where it is a network, its predictions.

Shapes: B pairs in a micro-batch, or rows; C latent channels, h w latent height and width.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairBatch, PairSource, Place
from diffalign.diffusion.losses import errors
from diffalign.diffusion.process import Cond, Denoise
from diffalign.diffusion.rng import CHECK, generator

Reference = Callable[[PairBatch], tuple[Tensor, Tensor]]
"""A batch of pairs -> the reference's errors [B] on winners and on losers, without gradients. One that is a network at
hand is a `LiveReference`, which has its predictions, too.
"""

MARGINS = 64
"""Kept margins that each process computes once more before it trains with them, at least: whole micro-batches."""
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-3}
"""How far a kept margin may be from the live one, as a share of the pair's mean error.

Measured with the default's model: fp32 in other batch shapes 1e-6; bf16 instead of fp32 1.3e-2, 0.0034 RMS, which at
beta = 5000 and SD's errors is most of a logit. Other shapes in bf16 were 5e-4 (0.19 logits at beta = 5000) on a GPU.
"""


def pair_errors(denoise: Denoise, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Returns the errors [B] of a denoiser on winners and on losers, in one forward."""
    error_w, error_l = errors(denoise(batch.x_t, batch.t, batch.cond), batch.target).chunk(2)
    return error_w, error_l


@dataclass(frozen=True)
class LiveReference:
    """Runs the reference as a network that is in memory, always without gradients."""

    denoise: Denoise

    @torch.no_grad()
    def __call__(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Returns its errors [B] on winners and on losers, in one forward."""
        return pair_errors(self.denoise, batch)

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns its output [B, C, h, w] at noisy latents x_t [B, C, h, w] and t [B], without gradients.

        With a LoRA policy the adapters are switched off meanwhile: not to be called between a forward of the policy
        and its backward where gradient checkpointing runs that forward again.
        """
        return self.denoise(x_t, t, cond)


def live(denoise: Denoise) -> LiveReference:
    """Returns the reference that a denoiser is: a frozen copy of the init, or the policy with its adapters off."""
    return LiveReference(denoise)


def predictions(reference: Reference | None, method: str) -> Denoise:
    """Returns the reference's predictions, for a method that compares outputs; ValueError where it has errors only."""
    if not isinstance(reference, LiveReference):
        raise ValueError(f"{method}: expected a live reference, which has predictions; got {reference!r}")
    return reference.predict


def cached(batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Returns the reference's errors kept in the batch: no network. ValueError for a batch without them."""
    if batch.error_ref is None:
        raise ValueError("a cached reference: expected a batch with the reference's errors, got one without")
    return batch.error_ref


def check_margins(
    source: PairSource, reference: Reference, autocast: Callable[[], AbstractContextManager[None]], precision: str
) -> float:
    """Computes some kept margins, L_l - L_w, with the live reference once more, in the shape and precision of training.

    Pairs and draws are chosen at random, each process its own. Returns the largest difference found, as a share of the
    pair's mean error; UserError where it is beyond TOLERANCE, or is no number.
    """
    if source.errors_ref is None:
        raise ValueError("check_margins: expected a source with kept errors, got one without")
    rng = generator(CHECK, source.seed, source.rank)
    count, draws, _ = source.errors_ref.shape
    shares = []
    for _ in range(math.ceil(MARGINS / source.micro_batch_size)):
        chosen = rng.integers((count, draws), size=(source.micro_batch_size, 2)).tolist()
        batch = source.batch([Place(index, epoch=k) for index, k in chosen])
        kept_w, kept_l = cached(batch)
        with autocast():
            w, l = reference(batch)
        shares.append(((kept_l - kept_w) - (l - w)).abs() / ((w + l) / 2))
    share = torch.cat(shares).max().item()
    if not share <= TOLERANCE[precision]:
        raise UserError(
            f"{MARGINS} or more of the reference's kept margins were computed once more, in {precision} and "
            f"{source.micro_batch_size} pairs a forward; the largest difference is {share:.2g} of a pair's mean error, "
            f"expected at most {TOLERANCE[precision]:g}. Were they made on another kind of device, or with another "
            "PyTorch? Make them here: dvc repro --force reference. In bf16, also set reference.batch_size to the "
            "policies' micro_batch_size: another shape rounds otherwise."
        )
    return share
