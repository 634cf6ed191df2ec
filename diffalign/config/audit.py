"""What the audits look for: the section `audit` of params.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.config.filters import Filter
from diffalign.config.values import Model, Name


class ByShapes(Model):
    """An attribute of the shapes world, read exactly, of the prompts that leave it open."""

    by: Literal["shapes"]
    attribute: Literal["colour", "shape", "size", "place"]


class ByReward(Model):
    """An attribute whose value is the one with the text that a reward scores highest, in one set of prompts."""

    by: Literal["reward"]
    set: str
    reward: Name
    settings: dict[str, Any]
    texts: Annotated[dict[str, str], Field(min_length=2)]
    confusion: dict[str, dict[str, float]] | None


Attribute = Annotated[ByShapes | ByReward, Field(discriminator="by")]


class Audit(Model):
    """Filters of images, attributes that prompts leave open, and the groups of raters by patterns of their ids."""

    filters: dict[Name, Filter]
    attributes: dict[Name, Attribute]
    rater_groups: dict[Name, list[str]]
