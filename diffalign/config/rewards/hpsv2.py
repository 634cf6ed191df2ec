"""The settings of HPSv2.0: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """HPSv2.0: `hpsv2: {path: models/rewards/hpsv2, batch_size: 16, sha256: null}`."""
