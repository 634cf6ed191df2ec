"""The settings of the shapes world's simulated raters as a reward: which of them, in which world."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.values import Model


class Settings(Model):
    """The raters' world, and ids or names of groups, as text; the score is the mean over them."""

    world: Literal["mild", "strong"]
    of: Annotated[list[str], Field(min_length=1)]
