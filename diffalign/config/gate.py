"""The gate: what a policy must show before it becomes the champion: the section `gate` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.values import Model, Name, Share


class WinRate(Model):
    """The win rate over the baseline by a judge: the lower bound of its interval must be above a share."""

    figure: Literal["win_rate"]
    judge: Name
    above: Share


class TrainingAlarms(Model):
    """The alarms of the policy's training: none but those allowed may have been raised."""

    figure: Literal["training_alarms"]
    allowed: list[str]


Condition = Annotated[WinRate | TrainingAlarms, Field(discriminator="figure")]


class Gate(Model):
    """The conditions of the gate, and the name in MLflow's registry that promoted policies get."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    conditions: Annotated[list[Condition], Field(min_length=1)]
