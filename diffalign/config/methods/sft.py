"""The settings of a policy that is fine-tuned on the winners."""

from typing import ClassVar, Literal

from diffalign.config.training import Trained


class Settings(Trained):
    """Fine-tuning on the winners."""

    title: ClassVar[str] = "SFT"
    method: Literal["sft"]
