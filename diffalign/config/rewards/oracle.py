"""What the shapes world's oracle lets one set: nothing."""

from diffalign.config.values import Model


class Settings(Model):
    """The shapes world's oracle, a program without settings: `oracle: {}`."""
