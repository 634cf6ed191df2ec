"""The shapes world's oracle as a reward: it reads the picture back and compares it with the caption."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.data.pixels import to_uint8
from diffalign.rewards.reward import Reward
from diffalign.shapes import oracle, skills
from diffalign.shapes.scenes import parse_caption

if TYPE_CHECKING:
    from diffalign.config.rewards.oracle import Settings

PARTS = ("oracle", "oracle_fidelity", "oracle_aesthetics", *(f"oracle_{skill}" for skill in skills.SKILLS))
"""The names of the oracle's scores, its own first."""


class Oracle:
    """Scores on a CPU, picture by picture; NaN where the prompt isn't a caption of the shapes world."""

    name = "oracle"
    version = "2"
    range = (0.0, 1.0)
    families = ("shapes",)
    differentiable = False
    trained_on = (
        "Nothing: a program that reads shapes, colours, sizes and places back from the picture. In-family: the "
        "simulated raters' answers, which the policies learnt from, were drawn from this very score plus noise."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        return self.scores(pixels, prompts)[self.name]

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns `oracle`, its parts `oracle_fidelity` and `oracle_aesthetics`, and a part a skill, [B] of float64.

        A skill's part (`oracle_count`) is the share of its questions that are answered yes, NaN where the caption asks
        none. An image whose pixels aren't finite has no score: NaN.
        """
        known = pixels.isfinite().flatten(1).all(dim=1).tolist()
        rows = [
            self._score(image, prompt) if finite else {}
            for image, prompt, finite in zip(to_uint8(pixels), prompts, known, strict=True)
        ]
        return {name: torch.tensor([row.get(name, math.nan) for row in rows], dtype=torch.float64) for name in PARTS}

    def _score(self, image: NDArray[np.uint8], prompt: str) -> dict[str, float]:
        """Returns the scores of an image, uint8 [H, W, 3], by their names; none for a foreign caption."""
        scene = parse_caption(prompt)
        if scene is None:
            return {}
        reading = oracle.read(image)
        found = oracle.judge(reading, scene)
        parts = {"oracle": found.oracle, "oracle_fidelity": found.fidelity, "oracle_aesthetics": found.aesthetics}
        return parts | {f"oracle_{skill}": share for skill, share in skills.shares(reading, scene).items()}


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the oracle; it has no settings and needs no device."""
    return Oracle()
