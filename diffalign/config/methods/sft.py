"""What a policy sets that is fine-tuned on the winners."""

from typing import Literal

from diffalign.config.training import Trained


class Settings(Trained):
    """Fine-tuning on the winners."""

    method: Literal["sft"]
