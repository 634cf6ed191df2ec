"""The settings of the reward unmarked: which objects of the shapes world play what is unsafe."""

from typing import Literal

from diffalign.config.values import Model


class Settings(Model):
    """The marked colours and shapes; an empty list stands for all, so that two empty ones mark every object."""

    colours: list[Literal["red", "green", "blue", "yellow", "purple", "cyan", "white", "black"]]
    shapes: list[Literal["circle", "square", "triangle", "diamond", "star", "cross"]]
