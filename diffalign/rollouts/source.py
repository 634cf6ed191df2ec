"""The source of pictures that a policy makes itself: one rank's share of every rollout, and its rewards.

Shapes: s pictures of a piece, S of a rollout, R rewards, C latent channels, h w latent and H W pixel height and width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import conditions
from diffalign.data.shards.reader import UNCONDITIONAL, Shards, prompt_key
from diffalign.diffusion import sampling
from diffalign.diffusion.process import Cond, Denoise, Process
from diffalign.diffusion.rollouts import Trajectory, rollout
from diffalign.diffusion.samplers.sampler import Plan, Sampler
from diffalign.diffusion.sampling import Output
from diffalign.rollouts.slots import Places, Slot


class Score(Protocol):
    """A reward, as a rollout needs it (`rewards.reward.Reward`)."""

    @property
    def differentiable(self) -> bool:
        """Returns whether gradients reach the pixels."""

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [s] of pictures [s, 3, H, W] in [-1, 1]; NaN where it can't score."""


@dataclass(frozen=True)
class RolloutSource:
    """Rolls a policy out for prompts of the train split, and scores what comes out."""

    places: Places
    texts: Sequence[str]
    """The distinct prompts of the train split."""
    prompts: Shards
    image: Cond
    """What an image gives to its condition; a batch of one."""
    shape: tuple[int, ...]
    """Of a latent, (C, h, w)."""
    process: Process
    sampler: Sampler
    steps: int
    guidance: float
    decode: Callable[[Tensor], Tensor]
    """From latents [s, C, h, w] to pictures [s, 3, H, W] in [-1, 1], with gradients."""
    scorers: Mapping[str, Score]
    weighing: Mapping[str, float]
    """The weight of each of `scorers`."""
    summed: Callable[[Tensor], Tensor]
    """Sums a tensor over the processes, on each of them."""
    device: torch.device
    train_unconditional: bool = True
    """Whether guidance's unconditional half has gradients."""
    alone: Callable[[], AbstractContextManager[None]] = nullcontext
    """Wraps forwards and backwards whose gradients concern this process only: none are exchanged meanwhile."""

    @property
    def batch_size(self) -> int:
        """Returns the pictures of an optimizer step, over all ranks."""
        return self.places.batch_size

    @property
    def elements(self) -> int:
        """Returns how many numbers a latent has, C * h * w."""
        return torch.Size(self.shape).numel()

    @property
    def counts(self) -> dict[str, int]:
        """Returns how much there is to learn from, by kind."""
        return {"prompts": len(self.texts)}

    @cached_property
    def plan(self) -> Plan:
        """Returns the rollout's moves, and the process that their coefficients are by."""
        return self.sampler.plan(self.process, self.steps)

    @cached_property
    def weights(self) -> Tensor:
        """Returns the rewards' weights [R], float64, in the order of `scorers`."""
        return torch.tensor([self.weighing[name] for name in self.scorers], dtype=torch.float64)

    def pieces(self, number: int, update: int) -> list[list[Slot]]:
        """Returns this rank's slots of an update of a rollout (0, 1, ...), a forward at a time."""
        return self.places.pieces(number, update)

    def condition(self, piece: Sequence[Slot], dropped: Sequence[bool]) -> Cond:
        """Returns the conditions of a piece, without guidance; a picture that is `dropped` has the empty prompt's."""
        texts = [self.texts[slot.prompt] for slot in piece]
        keys = [prompt_key("" if drop else text) for text, drop in zip(texts, dropped, strict=True)]
        return self._whole(conditions(self.prompts, keys), len(piece))

    def output(self, denoise: Denoise, piece: Sequence[Slot]) -> Output:
        """Returns a network with the conditions of a piece, guided: alike, to the bit, in a rollout and in training."""
        cond = self.condition(piece, [False] * len(piece))
        uncond = self._whole(conditions(self.prompts, [UNCONDITIONAL] * len(piece)), len(piece))
        return sampling.guided(denoise, cond, uncond, self.guidance, self.train_unconditional)

    def roll(self, denoise: Denoise, piece: Sequence[Slot], number: int) -> Trajectory:
        """Rolls a piece out from its noise, without gradients."""
        start = torch.stack([self.places.start(number, slot, self.shape) for slot in piece]).to(self.device)

        def added(step: int) -> Tensor:
            noise = [self.places.added(number, slot, step, self.shape) for slot in piece]
            return torch.stack(noise).to(self.device)

        with torch.no_grad():
            output = self.output(denoise, piece)
            return rollout(output, self.process, self.sampler, start, self.steps, added)

    def pictures(self, x0: Tensor) -> Tensor:
        """Returns latents [s, C, h, w] as float pictures [s, 3, H, W] in [-1, 1], with gradients; in float32."""
        with torch.autocast(self.device.type, enabled=False):
            return self.decode(x0.float())

    def rewards(self, pixels: Tensor, piece: Sequence[Slot]) -> Tensor:
        """Returns the rewards [s, R], float64, of pictures [s, 3, H, W]; NaN where one couldn't score, or isn't finite.

        Gradients reach the pixels through those that are differentiable.
        """
        texts = [self.texts[slot.prompt] for slot in piece]
        with torch.autocast(self.device.type, enabled=False):
            columns = [scorer(pixels, texts).double().to(self.device) for scorer in self.scorers.values()]
        scores = torch.stack(columns, dim=1)
        return torch.where(scores.isfinite(), scores, torch.full_like(scores, torch.nan))

    def gathered(self, own: Tensor, pieces: Sequence[Sequence[Slot]]) -> Tensor:
        """Returns the rows [S, ...] of all ranks in the order of slots, on every rank; own [s, ...], of these pieces.

        A slot that is nobody's is a row of zeros: all slots of the updates must be given in one call.
        """
        index = torch.tensor([slot.index for piece in pieces for slot in piece], device=self.device)
        total = self.places.updates * self.places.batch_size
        every = torch.zeros(total, *own.shape[1:], dtype=own.dtype, device=self.device)
        every[index] = own.detach().to(self.device)
        return self.summed(every)

    def _whole(self, cond: Cond, count: int) -> Cond:
        rows = {name: value.to(self.device) for name, value in cond.items()}
        return rows | {name: value.expand(count, *value.shape[1:]) for name, value in self.image.items()}
