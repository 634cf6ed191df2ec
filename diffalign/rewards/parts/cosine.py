"""Rewards that are a factor times the cosine of a CLIP's image and prompt: PickScore, HPSv2, the CLIP score.

Legend: B images, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diffalign.rewards.parts import clip, folders
from diffalign.rewards.parts.clip import Clip


class WeightsFolder(Protocol):
    """The settings of these rewards."""

    @property
    def path(self) -> str:
        """Returns the folder of the weights and the tokenizer."""

    @property
    def batch_size(self) -> int:
        """Returns the images and prompts in a forward."""


@dataclass(frozen=True)
class CosineReward:
    """Scores within ± `factor`; gradients reach the pixels."""

    name: str
    version: str
    trained_on: str
    families: tuple[str, ...]
    clip: Clip
    factor: float
    differentiable = True

    @property
    def range(self) -> tuple[float, float]:
        """Returns the scores of a cosine of -1 and of 1."""
        return (-self.factor, self.factor)

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float32, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        return self.factor * self.clip.cosines(pixels, prompts)

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns the score, and `NAME_tokens_cut`: how many tokens of each prompt weren't read, each [B]."""
        return {self.name: self(pixels, prompts), f"{self.name}_tokens_cut": self.clip.tokens_cut(prompts)}


def load(
    name: str,
    settings: WeightsFolder,
    device: torch.device | str,
    *,
    backbone: str | None,
    square: clip.Square,
    trained_on: str,
    families: tuple[str, ...],
    learnt_factor: bool = False,
) -> CosineReward:
    """Loads a reward's CLIP from its folder, whose files have been checked; the first version of its code.

    `backbone` is the kind of CLIP, None: any. The factor is 1, or the one that CLIP's training learnt. UserError where
    the folder holds another kind of CLIP.
    """
    folder = Path(settings.path)
    towers = clip.load(folder, backbone, square, settings.batch_size, device)
    version = folders.version(1, (folder / folders.WEIGHTS,), clip.precision(device))
    return CosineReward(name, version, trained_on, families, towers, towers.scale if learnt_factor else 1.0)
