"""The rule that turns comparisons into pairs: the section `pairs` of params.yaml."""

from typing import Literal

from diffalign.config.values import Flag, Model, Positive


class Pairs(Model):
    """The rule that turns comparisons into pairs."""

    rule: Literal["each", "majority"]
    ties: Flag
    raters: list[str]
    axes: dict[str, Positive]
    sources: dict[str, Positive]
    flagged: Literal["keep", "drop", "losers"]
    weights: list[Literal["prompt", "strength", "rater"]]
