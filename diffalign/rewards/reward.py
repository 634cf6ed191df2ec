"""Who judges images. One literal dict; its keys are those that params.yaml admits."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffalign.rewards.shapes_oracle import Oracle


class Scorer(Protocol):
    """Scores images for prompts; says of itself what a reader must know to judge the judge."""

    name: str
    """The key in SCORERS and in metrics."""
    version: str
    """Changes when the same image would get another score."""
    trained_on: str
    """What it learnt from, or was made from: the bias to expect."""

    def __call__(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Scores [B], higher is better, for B images, each uint8 [H, W, 3] RGB, and their prompts.

        The entry called `name` judges; others, called `name_...`, are its parts, for the reader. NaN where it can't
        score: never a default.
        """


SCORERS = {"oracle": Oracle}


def load(name: str) -> Scorer:
    """A scorer, ready to score."""
    return SCORERS[name]()
