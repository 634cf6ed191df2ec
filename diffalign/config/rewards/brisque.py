"""The settings of the reward brisque: none."""

from diffalign.config.values import Model


class Settings(Model):
    """BRISQUE as published: `brisque: {}`."""
