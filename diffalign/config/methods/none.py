"""A policy without training."""

from typing import Literal

from diffalign.config.values import Model, Whole


class Settings(Model):
    """A policy that is its `init`: the base, or the base from other noise."""

    method: Literal["none"]
    init: str
    noise_seed: Whole
