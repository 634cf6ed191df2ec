"""Defines what a rule of sampling by a reward is, and loads one by its name.

A rule is a file `diffalign/generation/rules/NAME.py` with a function or class `build`: it takes the rule's settings by
name, but for the reward's, and gives a `Rule`. Its settings stand in `diffalign/config/rules.py`.
Shapes: B images, C latent channels, h w latent and H W pixel height and width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from diffalign.core import axes
from diffalign.diffusion.rng import PERTURBATION, generator, normal, text_seed
from diffalign.diffusion.sampling import StepNoise
from diffalign.generation.pipeline import Chain, initial_noise, step_noise

Score = Callable[[Tensor, Sequence[str]], Tensor]
"""A reward: (pixels [B, 3, H, W] in [-1, 1], prompts) -> scores [B], NaN where it can't score."""

Looked = Callable[[], object]


def unseen() -> None:
    """Does nothing after a look."""


@dataclass(frozen=True)
class Starts:
    """The random numbers of some images: each is a function of the noise seed, the image's prompt and its seed."""

    noise_seed: int
    prompts: Sequence[str]
    seeds: Sequence[int]
    shape: tuple[int, ...]
    """Of a latent, (C, h, w)."""
    device: torch.device

    def noise(self, attempt: int = 0) -> Tensor:
        """Returns the unit noise [B, C, h, w] that an attempt begins with; that of the first is the plain image's."""
        each = zip(self.prompts, self.seeds, strict=True)
        rows = [initial_noise(self.noise_seed, prompt, seed, self.shape, attempt) for prompt, seed in each]
        return torch.stack(rows).to(self.device)

    def added(self, attempt: int = 0) -> StepNoise:
        """Returns the noise that an attempt's steps add."""
        like = torch.empty(len(self.prompts), *self.shape, device=self.device)
        return step_noise(self.noise_seed, self.prompts, self.seeds, like, attempt)

    def perturbation(self, iteration: int) -> Tensor:
        """Returns the unit noise [B, C, h, w] of an iteration."""
        each = zip(self.prompts, self.seeds, strict=True)
        rngs = [generator(PERTURBATION, self.noise_seed, text_seed(text), seed, iteration) for text, seed in each]
        return torch.stack([normal(rng, self.shape) for rng in rngs]).to(self.device)


@dataclass
class Found:
    """The images that a rule made, and what the reward said of them. Rows that couldn't be scored have NaN."""

    pixels: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    first: Tensor
    """Scores [B], float64, of the images without the rule."""
    kept: Tensor
    """Scores [B], float64, of `pixels`."""
    at: Tensor
    """The number [B] of the attempt or the iteration that `pixels` are of; 0: the image without the rule."""
    missing: Tensor
    """How many [B] of the attempts or iterations couldn't be scored."""

    def improve(self, number: int, pixels: Tensor, scores: Tensor) -> None:
        """Takes over the images that score higher, and those with a score where there was none so far."""
        better = (scores > self.kept) | (self.kept.isnan() & ~scores.isnan())
        self.take(better, number, pixels, scores)

    def take(self, chosen: Tensor, number: int, pixels: Tensor, scores: Tensor) -> None:
        """Takes over the images of the rows that are `chosen` [B], and counts those without a score."""
        self.pixels = torch.where(chosen.view(-1, 1, 1, 1), pixels, self.pixels)
        self.kept = torch.where(chosen, scores, self.kept)
        self.at = torch.where(chosen, number, self.at)
        self.missing = self.missing + scores.isnan()


class Rule(Protocol):
    """Makes images with a reward's help. An image doesn't depend on the others of its batch, but for rounding."""

    @property
    def looks(self) -> int:
        """Returns how often it makes an image until it has one."""

    def __call__(self, chain: Chain, starts: Starts, score: Score, looked: Looked = unseen) -> Found:
        """Makes the images of `starts`, whose prompts `chain` is for; calls `looked` after each of its `looks`."""


def load(name: str, settings: Mapping[str, Any]) -> Rule:
    """Builds a rule from its settings in params."""
    others = {key: value for key, value in settings.items() if key != "reward"}
    return cast(Rule, axes.load("diffalign.generation.rules", name).build(**others))


def begun(pixels: Tensor, scores: Tensor) -> Found:
    """Returns the images without a rule as what was found so far."""
    at = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
    return Found(pixels, scores, scores, at, scores.isnan().long())


def scored(score: Score, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """Returns scores [B], float64, on the pixels' device, with gradients; NaN where they aren't finite."""
    scores = score(pixels, prompts).to(pixels.device, torch.float64)
    return torch.where(scores.isfinite(), scores, torch.nan)
