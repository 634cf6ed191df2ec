"""Micro-batches of pairs from the shards: no VAE and no text encoder, only latents and embeddings.

Shapes: B pairs, C latent channels, h w latent height and width.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.data.batches.pairs import Pair
from diffalign.data.batches.prefetch import Make, when_asked
from diffalign.data.shards.reader import Shards, image_cond, prompt_key, stacked
from diffalign.diffusion.process import Process
from diffalign.diffusion.rng import FixedDraws, PairDraw, pair_draw, pair_place, rater_dropped
from diffalign.diffusion.timesteps import Times

Cond = dict[str, Tensor]


@dataclass(frozen=True)
class PairBatch:
    """Holds B noised pairs: winners are the first B rows of the [2B, ...] tensors, losers the last B."""

    x_t: Tensor
    """Noisy latents [2B, C, h, w]; a pair shares its timestep and noise."""
    t: Tensor
    """Timesteps [2B]."""
    target: Tensor
    """What the network should output, [2B, C, h, w]."""
    cond: Cond
    """The conditions, 2B rows each."""
    strength: Tensor
    """Probability [B] in [0.5, 1] that the winner is the better one."""
    weight: Tensor
    """Weight [B] of the pair in the loss; 1 is one pair."""
    error_ref: tuple[Tensor, Tensor] | None = None
    """The reference's errors [B] on winners and on losers, where they are kept; None: they aren't."""

    def __len__(self) -> int:
        return len(self.strength)

    def winners(self) -> "PairBatch":
        """Returns this batch with the winners' rows only."""
        count = len(self)
        cond = {name: value[:count] for name, value in self.cond.items()}
        return PairBatch(self.x_t[:count], self.t[:count], self.target[:count], cond, self.strength, self.weight)

    def losers(self) -> "PairBatch":
        """Returns this batch with the losers' rows only."""
        count = len(self)
        cond = {name: value[count:] for name, value in self.cond.items()}
        return PairBatch(self.x_t[count:], self.t[count:], self.target[count:], cond, self.strength, self.weight)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "PairBatch":
        """Returns this batch with each tensor changed."""
        x_t, t, target, strength, weight = map(change, (self.x_t, self.t, self.target, self.strength, self.weight))
        cond = {name: change(value) for name, value in self.cond.items()}
        error_ref = None if self.error_ref is None else (change(self.error_ref[0]), change(self.error_ref[1]))
        return PairBatch(x_t, t, target, cond, strength, weight, error_ref)

    def pinned(self, device: torch.device) -> "PairBatch":
        """Returns this batch in pinned memory, which a GPU copies from asynchronously, where `device` is a GPU."""
        return self.mapped(Tensor.pin_memory) if device.type == "cuda" else self

    def to(self, device: torch.device) -> "PairBatch":
        """Returns this batch on a device; neither it nor the host waits where the batch is `pinned`."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class Place:
    """Says where a pair is used: which of the pairs, in which epoch, in which slot of which step's global batch."""

    index: int
    epoch: int
    step: int = 0
    slot: int = 0


@dataclass(frozen=True, kw_only=True)
class BatchSource(ABC):
    """Makes one rank's share of every global batch; a step's batches are a function of its number alone.

    The global batch has `batch_size` slots; rank r of `world` has the r-th run of them. Batches are made on the CPU,
    the same for every device. A subclass says what is in a slot.
    """

    images: Shards
    prompts: Shards
    times: Times
    seed: int
    batch_size: int
    micro_batch_size: int
    prompt_drop: float
    flip: str
    device: torch.device
    rank: int = 0
    world: int = 1
    read: Callable[[Make[PairBatch], int], Iterator[PairBatch]] = when_asked
    """How a step's micro-batches are read: made when asked for, or before (`prefetch.Prefetcher`)."""

    @property
    def process(self) -> Process:
        """Returns the process that noises the latents."""
        return self.times.process

    def at(self, step: int) -> Iterator[PairBatch]:
        """Yields this rank's micro-batches of an optimizer step (0, 1, ...)."""
        return (batch.to(self.device) for batch in self.read(self._made, step))

    def _made(self, step: int) -> Iterator[PairBatch]:
        for slots in micro_batches(self.batch_size, self.micro_batch_size, self.rank, self.world):
            yield self._in_slots(step, slots).pinned(self.device)

    @abstractmethod
    def _in_slots(self, step: int, slots: Sequence[int]) -> PairBatch:
        """Returns the batch that is in some slots of a step."""


@dataclass(frozen=True)
class PairSource(BatchSource):
    """Makes global batches of pairs, one in each slot."""

    pairs: Sequence[Pair]
    fixed: FixedDraws | None = None
    """The pairs' own draws, where the reference's errors at them are kept; None: draws by `seed`, step and slot."""
    errors_ref: NDArray[np.float32] | None = None
    """Those errors [N, K, 2], winner and loser, of the pairs in their order."""
    raters: Mapping[str, int] | None = None
    """The row of each pair's rater, by the pair's id; None: conditions don't say whose pair it is."""
    rater_drop: float = 0.0
    """Share of places where a pair is nobody's."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape (C, h, w) of a latent."""
        return tuple(self.images.get(self.pairs[0].image_w)["mean"].shape)

    @property
    def elements(self) -> int:
        """Returns how many numbers a latent has, C * h * w."""
        return math.prod(self.shape)

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much there is to learn from, by kind."""
        return {"pairs": len(self.pairs)}

    def batch(self, places: Sequence[Place]) -> PairBatch:
        """Returns the pairs at some places, a row each."""
        return self._batch(places).to(self.device)

    def drawn(self, pairs: Sequence[Pair], draws: Sequence[PairDraw]) -> PairBatch:
        """Returns a batch of any pairs that are in the shards, at these draws."""
        return self._drawn(pairs, draws).to(self.device)

    def _in_slots(self, step: int, slots: Sequence[int]) -> PairBatch:
        return self._batch([self._place(step, slot) for slot in slots])

    def _batch(self, places: Sequence[Place]) -> PairBatch:
        pairs, shape = [self.pairs[place.index] for place in places], self.shape
        dropped = [rater_dropped(self.seed, place.step, place.slot, self.rater_drop) for place in places]
        batch = self._drawn(pairs, [self._draw(place, shape) for place in places], dropped)
        return batch if self.errors_ref is None else replace(batch, error_ref=kept(self.errors_ref, places))

    def _drawn(self, pairs: Sequence[Pair], draws: Sequence[PairDraw], nobodys: Sequence[bool] = ()) -> PairBatch:
        moments = [(self.images.get(pair.image_w), self.images.get(pair.image_l)) for pair in pairs]
        x0 = [latents(w, d.posterior_w, d.flip_w) for (w, _), d in zip(moments, draws, strict=True)]
        x0 += [latents(l, d.posterior_l, d.flip_l) for (_, l), d in zip(moments, draws, strict=True)]
        sizes = [image_cond(w, d.flip_w) for (w, _), d in zip(moments, draws, strict=True)]
        sizes += [image_cond(l, d.flip_l) for (_, l), d in zip(moments, draws, strict=True)]
        batch = self._noised(pairs, draws, torch.stack(x0), sizes)
        return batch if self.raters is None else replace(batch, cond=batch.cond | self._whose(pairs, nobodys))

    def _whose(self, pairs: Sequence[Pair], nobodys: Sequence[bool]) -> Cond:
        """Returns `raters` [2B], -1 for nobody: where the pair's rater is unknown, and in the places of `nobodys`."""
        assert self.raters is not None
        rows = [self.raters.get(pair.pair_id, -1) for pair in pairs]
        kept_rows = [-1 if nobody else row for row, nobody in zip(rows, nobodys or [False] * len(rows), strict=True)]
        return {"raters": torch.tensor(kept_rows).repeat(2)}

    def _place(self, step: int, slot: int) -> Place:
        index, epoch = pair_place(self.seed, step, slot, self.batch_size, len(self.pairs))
        return Place(index, epoch, step, slot)

    def _draw(self, place: Place, shape: tuple[int, ...]) -> PairDraw:
        how = shape, self.times, self.flip, self.prompt_drop
        if self.fixed is None:
            return pair_draw(self.seed, place.step, place.slot, *how)
        return self.fixed.at(self.pairs[place.index].pair_id, place.epoch, *how)

    def _noised(self, pairs: Sequence[Pair], draws: Sequence[PairDraw], x0: Tensor, sizes: Sequence[Cond]) -> PairBatch:
        eps = torch.stack([d.eps for d in draws]).repeat(2, 1, 1, 1)
        t = torch.tensor([d.t for d in draws]).repeat(2)
        keys = [prompt_key("" if d.drop else pair.prompt) for pair, d in zip(pairs, draws, strict=True)]
        one = conditions(self.prompts, keys)
        cond = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in one.items()}
        cond |= stacked(sizes)
        strength, weight = (torch.tensor([getattr(pair, name) for pair in pairs]) for name in ("strength", "weight"))
        return PairBatch(self.process.noised(x0, eps, t), t, self.process.target(x0, eps, t), cond, strength, weight)


def micro_batches(batch_size: int, micro_batch_size: int, rank: int, world: int) -> Iterator[range]:
    """Yields the slots of the global batch that belong to a rank, a micro-batch at a time."""
    share = batch_size // world
    slots = range(rank * share, (rank + 1) * share)
    for start in range(0, share, micro_batch_size):
        yield slots[start : start + micro_batch_size]


def kept(errors: NDArray[np.float32], places: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """Selects from kept errors [N, K, 2] those of the pairs at some places: winners' and losers', a row each."""
    rows = errors[[p.index for p in places], [p.epoch % errors.shape[1] for p in places]]
    error_w, error_l = torch.from_numpy(rows).unbind(1)
    return error_w, error_l


def conditions(prompts: Shards, keys: Sequence[str]) -> Cond:
    """Returns the conditions of the prompts with these keys, a row each."""
    return stacked([prompts.get(key) for key in keys])


def latents(moments: dict[str, Tensor], noise: Tensor, flip: bool) -> Tensor:
    """Samples the VAE's posterior [C, h, w]: mean + exp(logvar / 2) * noise, of the mirrored image if `flip`."""
    suffix = "_flip" if flip else ""
    return moments[f"mean{suffix}"] + (0.5 * moments[f"logvar{suffix}"]).exp() * noise
