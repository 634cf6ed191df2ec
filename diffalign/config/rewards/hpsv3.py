"""The settings of HPSv3: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """HPSv3, 16 GB: `hpsv3: {path: models/rewards/hpsv3, batch_size: 4, sha256: null}`."""
