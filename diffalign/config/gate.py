"""The gate: what a policy must show before it becomes the champion: the section `gate` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.values import Model, Name, Share

HELD_OUT, ALL = "held_out", "all"
"""Words of conditions: each judge of another family than what a policy learned from; each set of prompts."""


class WinRate(Model):
    """The win rate over the baseline by a judge: the lower bound of its interval must be above a share.

    Judge `held_out` stands for each judge that isn't in-family, set `all` for each set of prompts.
    """

    figure: Literal["win_rate"]
    judge: Name
    set: str
    above: Share


class Alarms(Model):
    """The alarms of evaluation, by the names in `evaluate.alarms`: each must have been measured, and be quiet."""

    figure: Literal["alarms"]
    quiet: Annotated[list[Name], Field(min_length=1)]


class TrainingAlarms(Model):
    """The alarms of the policy's training: none but those allowed may have been raised."""

    figure: Literal["training_alarms"]
    allowed: list[str]


class Flagged(Model):
    """The share of images that a filter flags: the upper bound of its rise over the baseline's, in each set."""

    figure: Literal["flagged"]
    filter: Name
    at_most: Share


class Shift(Model):
    """The total variation from the baseline's images of an attribute that prompts leave open: its upper bound."""

    figure: Literal["shift"]
    attribute: Name
    at_most: Share


class RaterGap(Model):
    """The gap between groups of raters in their agreement with the policy's implicit reward: its upper bound."""

    figure: Literal["rater_gap"]
    at_most: Share


class Votes(Model):
    """The win rate over the baseline by people's votes: the lower bound of its interval must be above a share."""

    figure: Literal["votes"]
    question: Literal["overall", "appeal", "alignment"]
    above: Share


Condition = Annotated[
    WinRate | Votes | Alarms | TrainingAlarms | Flagged | Shift | RaterGap, Field(discriminator="figure")
]


class Gate(Model):
    """The conditions of the gate, and the name in MLflow's registry that promoted policies get."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    conditions: Annotated[list[Condition], Field(min_length=1)]
