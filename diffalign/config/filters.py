"""Filters of what is unsafe: of images by a reward, of prompts by words."""

from typing import Annotated, Any

from pydantic import Field

from diffalign.config.values import Model, Name


class Filter(Model):
    """A reward that tells safe images from others: one whose score is below the threshold is flagged."""

    reward: Name
    settings: dict[str, Any]
    below: Annotated[float, Field(allow_inf_nan=False)]


class Words(Model):
    """A file of words; a prompt with one of them is flagged. It lies in `filters/`, which DVC watches."""

    words: Annotated[str, Field(pattern=r"^filters/[\w.-]+\.txt$")]
