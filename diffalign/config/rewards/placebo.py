"""The settings of the reward placebo: none."""

from diffalign.config.values import Model


class Settings(Model):
    """A score that means nothing, a control: `placebo: {}`."""
