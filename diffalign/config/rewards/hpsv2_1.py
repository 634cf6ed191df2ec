"""The settings of HPSv2.1: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """HPSv2.1: `hpsv2_1: {path: models/rewards/hpsv2_1, batch_size: 16, sha256: null}`."""
