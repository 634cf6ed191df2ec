"""The shapes world's oracle as a scorer: reads the picture back and compares it with the caption."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffalign.shapes import oracle


class Oracle:
    """Scores in [0, 1]; NaN where the prompt isn't a caption of the shapes world."""

    name = "oracle"
    version = "1"
    trained_on = (
        "Nothing: a program that reads shapes, colours, sizes and places back from the picture. In-family: the "
        "simulated raters' answers, which the policies learnt from, were drawn from this very score plus noise."
    )

    def __call__(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """`oracle` and its parts `oracle_fidelity`, `oracle_aesthetics`, each [B]."""
        scored = [oracle.score(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        return {
            "oracle": np.array([s.oracle for s in scored], np.float64),
            "oracle_fidelity": np.array([s.fidelity for s in scored], np.float64),
            "oracle_aesthetics": np.array([s.aesthetics for s in scored], np.float64),
        }
