"""The settings of LAION's aesthetic predictor: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """Version 2: `aesthetic_v2: {path: models/rewards/aesthetic_v2, batch_size: 16, sha256: null}`."""
