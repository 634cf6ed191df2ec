"""HPSv2's two versions (Wu et al. 2023, arXiv 2306.09341): what differs is the weights and what they learnt from.

Score: the cosine of image and prompt, as the authors' code returns it; their tables show it times 100. Preprocessing:
long side to 224 bicubic, black padding, no crop. Template: the prompt as it is, cut to 77 tokens. Licence: Apache-2.0.
"""

from pathlib import Path
from typing import Protocol

import torch

from diffalign.rewards.parts import cosine, folders
from diffalign.rewards.parts.cosine import WeightsFolder
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import padded_square
from diffalign.rewards.reward import Reward

BACKBONE = "ViT-H/14"


def sources(checkpoint: str) -> tuple[Published, ...]:
    """Returns where a version's files are published."""
    return (
        Published("xswu/HPSv2", ("config.json", folders.WEIGHTS), checkpoint=checkpoint),
        Published("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", folders.TOKENIZER),
    )


class Settings(WeightsFolder, folders.Weights, Protocol):
    """The settings of both versions."""


def load(
    name: str, published: tuple[Published, ...], trained_on: str, settings: Settings, device: torch.device | str
) -> Reward:
    """Loads a version of HPSv2 from its folder; UserError where a file is missing, damaged, or the other version's."""
    folders.check(name, settings, published)
    folders.check_converted(name, Path(settings.path) / folders.WEIGHTS)
    return cosine.load(
        name,
        settings,
        device,
        backbone=BACKBONE,
        square=padded_square,
        trained_on=trained_on,
        families=("hpdv2", "hpdv3", "clip_h14"),
    )
