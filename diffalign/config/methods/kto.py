"""What a Diffusion-KTO policy sets."""

from typing import ClassVar, Literal

from diffalign.config.training import Trained
from diffalign.config.values import Positive, Share


class Settings(Trained):
    """Diffusion-KTO, which learns from images one by one; `beta` as in Diffusion-DPO."""

    title: ClassVar[str] = "KTO"
    method: Literal["kto"]
    beta: Positive
    desirable_share: Share
