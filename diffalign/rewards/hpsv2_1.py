"""HPSv2.1: HPSv2 with weights of later data; its scores aren't on version 2.0's scale.

Score, preprocessing, template and licence are in `parts/hps.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.rewards.parts import folders, hps
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.hpsv2_1 import Settings

SOURCES = hps.sources("HPS_v2.1_compressed.pt")
TRAINED_ON = (
    "HPDv2's training choices and more of its authors', from LAION's CLIP ViT-H/14. In-family: policies that learnt "
    "from HPDv2, or from HPDv3, which has HPDv2's rows among its own."
)


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present("hpsv2_1", Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads HPSv2.1; see `hps.load`."""
    return hps.load("hpsv2_1", SOURCES, TRAINED_ON, settings, device)
