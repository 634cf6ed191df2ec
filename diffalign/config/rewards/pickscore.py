"""The settings of PickScore: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """PickScore: `pickscore: {path: models/rewards/pickscore, batch_size: 16, sha256: null}`."""
