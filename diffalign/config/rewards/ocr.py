"""The settings of the reward ocr: none."""

from diffalign.config.values import Model


class Settings(Model):
    """The reading of quoted words: `ocr: {}`."""
