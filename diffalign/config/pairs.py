"""The rule that turns comparisons into pairs: the section `pairs` of params.yaml."""

from typing import Literal

from diffalign.config.values import Model


class Pairs(Model):
    """The rule that turns comparisons into pairs."""

    rule: Literal["each", "majority"]
    raters: list[str]
    weights: list[Literal["prompt", "strength", "rater"]]
