"""Micro-batches of single images from the shards: liked and disliked ones in equal numbers, or curated ones.

Shapes: B slots in a micro-batch, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffalign.data.batches.image_labels import ImageLabel
from diffalign.data.batches.pair_batches import BatchSource, PairBatch, conditions, latents
from diffalign.data.shards.reader import image_cond, prompt_key, stacked
from diffalign.diffusion.rng import image_draw, image_index


@dataclass(frozen=True)
class UnpairedSource(BatchSource):
    """Makes global batches of labelled images: each slot has a desirable image and an unrelated undesirable one.

    The two have nothing in common: each its own prompt, timestep and noise, each side its own order. What it gives has
    a `PairBatch`'s form, the desirable ones first.
    """

    desirable: Sequence[ImageLabel]
    undesirable: Sequence[ImageLabel]

    @property
    def elements(self) -> int:
        """Returns how many numbers a latent has, C * h * w."""
        return self.images.get(self.desirable[0].image)["mean"].numel()

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much there is to learn from, by kind."""
        return {"desirable": len(self.desirable), "undesirable": len(self.undesirable)}

    def _in_slots(self, step: int, slots: Sequence[int]) -> PairBatch:
        chosen: list[ImageLabel] = []
        for side, of_side in enumerate((self.desirable, self.undesirable)):
            where = (image_index(self.seed, step, slot, side, self.batch_size, len(of_side)) for slot in slots)
            chosen += [of_side[i] for i in where]
        return noised(self, step, slots, chosen)


@dataclass(frozen=True)
class CuratedSource(BatchSource):
    """Makes global batches of chosen images, one in each slot; each epoch is a permutation of them.

    What it gives has the form of a `PairBatch`'s winners.
    """

    kept: Sequence[ImageLabel]

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much there is to learn from, by kind."""
        return {"images": len(self.kept)}

    def _in_slots(self, step: int, slots: Sequence[int]) -> PairBatch:
        where = (image_index(self.seed, step, slot, 0, self.batch_size, len(self.kept)) for slot in slots)
        return noised(self, step, slots, [self.kept[i] for i in where])


def noised(source: BatchSource, step: int, slots: Sequence[int], chosen: Sequence[ImageLabel]) -> PairBatch:
    """Returns images at the draws of some slots: one image a slot and side, all of a side first; each counts 1."""
    moments = [source.images.get(label.image) for label in chosen]
    shape = tuple(moments[0]["mean"].shape)
    how = shape, source.times, source.flip != "none", source.prompt_drop
    sides = range(len(chosen) // len(slots))
    draws = [image_draw(source.seed, step, slot, side, *how) for side in sides for slot in slots]
    x0 = torch.stack([latents(m, d.posterior, d.flip) for m, d in zip(moments, draws, strict=True)])
    eps = torch.stack([d.eps for d in draws])
    t = torch.tensor([d.t for d in draws])
    keys = [prompt_key("" if d.drop else label.prompt) for label, d in zip(chosen, draws, strict=True)]
    sizes = [image_cond(m, d.flip) for m, d in zip(moments, draws, strict=True)]
    cond = conditions(source.prompts, keys) | stacked(sizes)
    ones, process = torch.ones(len(slots)), source.process
    return PairBatch(process.noised(x0, eps, t), t, process.target(x0, eps, t), cond, ones, ones)
