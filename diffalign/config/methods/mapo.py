"""The settings of a MaPO policy."""

from typing import ClassVar, Literal

from diffalign.config.training import Trained
from diffalign.config.values import Positive


class Settings(Trained):
    """MaPO, which needs no reference; `beta` weighs the preference against fine-tuning on the winner."""

    title: ClassVar[str] = "MaPO"
    method: Literal["mapo"]
    beta: Positive
