"""What a Diffusion-DPO policy sets."""

from typing import ClassVar, Literal

from diffalign.config.training import Trained
from diffalign.config.values import Positive, Share


class Settings(Trained):
    """Diffusion-DPO (Wallace et al. 2023); `beta` in the official code's convention."""

    title: ClassVar[str] = "DPO"
    method: Literal["dpo"]
    beta: Positive
    link: Literal["sigmoid", "hinge", "ipo"]
    safeguard: Share | None
