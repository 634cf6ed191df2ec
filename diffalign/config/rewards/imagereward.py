"""The settings of ImageReward: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """ImageReward: `imagereward: {path: models/rewards/imagereward, batch_size: 16, sha256: null}`."""
