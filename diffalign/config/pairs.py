"""The rule that turns comparisons into pairs: the section `pairs` of params.yaml."""

from typing import Literal

from diffalign.config.values import Model


class Pairs(Model):
    """The rule that turns comparisons into pairs."""

    rule: Literal["each", "majority"]
    raters: list[str]
    flagged: Literal["keep", "drop", "losers"]
    weights: list[Literal["prompt", "strength", "rater"]]
