"""The CLIP score (Hessel et al. 2021, arXiv 2104.08718) with LAION's CLIP ViT-H/14: how well an image fits its prompt.

Score: the cosine of image and prompt, neither clipped at 0 nor times 2.5 or 100, as others print it. Preprocessing:
CLIP's, short side to 224 bicubic, the middle cut out. Template: the prompt as it is, cut to 77 tokens. Licence: MIT.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.rewards.parts import cosine, folders
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import clip_square
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.clip_score_h14 import Settings

SOURCES = (Published("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", ("config.json", folders.WEIGHTS, *folders.TOKENIZER)),)
TRAINED_ON = (
    "LAION-2B, images with their texts from the web; no preferences. In-family: PickScore and HPSv2 began from these "
    "weights."
)


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present("clip_score_h14", Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the towers from its folder; UserError where a file is missing, damaged, or another model's."""
    folders.check("clip_score_h14", settings, SOURCES)
    return cosine.load(
        "clip_score_h14",
        settings,
        device,
        backbone="ViT-H/14",
        square=clip_square,
        trained_on=TRAINED_ON,
        families=("clip_h14",),
    )
