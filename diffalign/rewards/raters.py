"""Simulated raters as a reward: what a picture of the shapes world is worth to them, without their answers' noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.pixels import to_uint8
from diffalign.rewards.reward import Reward
from diffalign.shapes import oracle
from diffalign.shapes.scenes import parse_caption
from diffalign.shapes.tastes import WORLDS

if TYPE_CHECKING:
    from diffalign.config.rewards.raters import Settings


@dataclass(frozen=True)
class Raters:
    """Scores by the oracle plus tastes, on a CPU; NaN where the prompt isn't a caption of the shapes world."""

    world: str
    of: tuple[str, ...]
    name = "raters"
    version = "1"
    range = (-math.inf, math.inf)
    families = ("shapes",)
    differentiable = False
    trained_on = (
        "Nothing: a program that knows what simulated raters like beside the oracle. In-family: it's these raters' own "
        "utility, without their answers' noise; of those who answered assets/comparisons but for rounding."
    )

    @property
    def ids(self) -> tuple[str, ...]:
        """Returns the raters among `of`, who can answer; groups can't."""
        return tuple(name for name in self.of if name in WORLDS[self.world].ids)

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        return self.scores(pixels, prompts)[self.name]

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns `raters`, the mean, and a part `raters_NAME` for each rater or group of `of`, [B] of float64.

        A group's is the mean of its raters'. An image whose pixels aren't finite has no score: NaN.
        """
        known = pixels.isfinite().flatten(1).all(dim=1).tolist()
        rows = [
            self._score(image, prompt) if finite else np.full(len(self.of), np.nan)
            for image, prompt, finite in zip(to_uint8(pixels.nan_to_num()), prompts, known, strict=True)
        ]
        table = torch.from_numpy(np.stack(rows))
        return {self.name: table.mean(dim=1)} | {f"{self.name}_{n}": table[:, i] for i, n in enumerate(self.of)}

    def _score(self, image: NDArray[np.uint8], prompt: str) -> NDArray[np.float64]:
        """Returns the utilities of an image, uint8 [H, W, 3], in the order of `of`; NaN for a foreign caption."""
        scene, world = parse_caption(prompt), WORLDS[self.world]
        if scene is None:
            return np.full(len(self.of), np.nan)
        reading = oracle.read(image)
        score = np.array([oracle.judge(reading, scene).oracle])
        all_of_them = world.utilities(score, world.read(reading)[None])[0]
        return np.array([all_of_them[world.members(name)].mean() for name in self.of])


def check(settings: "Settings") -> None:
    """Raises UserError for a rater or a group that the world doesn't have."""
    known = WORLDS[settings.world].names
    if unknown := [name for name in settings.of if name not in known]:
        raise UserError(
            f"rewards.raters.of: expected groups or raters of the world {settings.world}, {', '.join(known)}, "
            f"got {', '.join(unknown)}"
        )


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the reward; it needs no device. Raises UserError for raters that the world doesn't have."""
    check(settings)
    return Raters(settings.world, tuple(settings.of))
