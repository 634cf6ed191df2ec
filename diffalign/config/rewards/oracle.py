"""The settings of the shapes world's oracle: none."""

from diffalign.config.values import Model


class Settings(Model):
    """The shapes world's oracle, a program without settings: `oracle: {}`."""
