"""The settings of reward models that this project trains itself: the section `reward_models` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.values import Count, Flag, Model, Positive, Whole


class TrainedLayers(Model):
    """The last layers of each tower that are trained, with its last norm; None: the whole tower, 0: none of it."""

    vision: Whole | None
    text: Whole | None


class RewardModel(Model):
    """A CLIP that is fine-tuned on comparisons; its two projections and its scale are always trained."""

    init: str
    scale: Positive | None
    """The factor of the cosines at the start; None: the init's."""
    trained_layers: TrainedLayers
    ties: Flag
    weights: list[Literal["prompt"]]
    gradient_checkpointing: Flag
    optimizer: Literal["adamw", "adafactor", "adamw8bit"]
    lr: Positive
    warmup_steps: Whole
    schedule: Literal["constant", "linear"]
    steps: Count
    batch_size: Count
    micro_batch_size: Count
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    seed: Whole
    validate_every: Whole
    validation_pairs: Count
    choose: Literal["last", "validation"]

    def problems(self) -> list[str]:
        """Returns how these values contradict each other, as `key: what`."""
        lines = []
        if self.batch_size % self.micro_batch_size:
            lines.append(
                f"batch_size: expected a multiple of micro_batch_size {self.micro_batch_size}, got {self.batch_size}"
            )
        if self.choose == "validation" and not self.validate_every:
            lines.append("choose: expected last, since validate_every is 0, got 'validation'")
        return lines
