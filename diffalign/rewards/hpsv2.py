"""HPSv2.0: people's choices in HPDv2; the version that Diffusion-DPO's and Diffusion-SDPO's tables show.

Score, preprocessing, template and licence are in `parts/hps.py`.
"""

from typing import TYPE_CHECKING

import torch

from diffalign.rewards.parts import hps
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.hpsv2 import Settings

TRAINED_ON = (
    "HPDv2's training choices, from LAION's CLIP ViT-H/14. In-family: policies that learnt from HPDv2, or from HPDv3, "
    "which has HPDv2's rows among its own."
)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads HPSv2.0; see `hps.load`."""
    return hps.load("hpsv2", "HPS_v2_compressed.pt", TRAINED_ON, settings, device)
