"""The settings of the reward jpeg_incompressibility: none."""

from diffalign.config.values import Model


class Settings(Model):
    """The size of a JPEG file, a program without settings: `jpeg_incompressibility: {}`."""
