"""The settings of the reward nsfw: none."""

from diffalign.config.values import Model


class Settings(Model):
    """Yahoo's open_nsfw as published: `nsfw: {}`."""
