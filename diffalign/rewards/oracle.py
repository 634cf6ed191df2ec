"""The shapes world's oracle as a reward: it reads the picture back and compares it with the caption."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.pixels import to_uint8
from diffalign.rewards.reward import Reward
from diffalign.shapes import oracle

if TYPE_CHECKING:
    from diffalign.config.rewards.oracle import Settings


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
        """Returns `oracle` and its parts `oracle_fidelity` and `oracle_aesthetics`, each [B], float64.

        An image whose pixels aren't finite has no score: NaN.
        """
        known = pixels.isfinite().flatten(1).all(dim=1).tolist()
        none = oracle.OracleScore(float("nan"), float("nan"), float("nan"))
        found = [
            oracle.score(image, prompt) if finite else none
            for image, prompt, finite in zip(to_uint8(pixels), prompts, known, strict=True)
        ]
        table = torch.tensor([astuple(score) for score in found], dtype=torch.float64).reshape(-1, 3)
        fidelity, aesthetics, whole = table.unbind(dim=1)
        return {"oracle": whole, "oracle_fidelity": fidelity, "oracle_aesthetics": aesthetics}


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the oracle; it has no settings and needs no device."""
    return Oracle()
