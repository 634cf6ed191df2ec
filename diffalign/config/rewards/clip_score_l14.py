"""The settings of the CLIP score with ViT-L/14: its folder, its batch size, its weights."""

from diffalign.config.rewards.published_weights import PublishedWeights


class Settings(PublishedWeights):
    """The CLIP score with ViT-L/14: `clip_score_l14: {path: models/rewards/clip_l14, batch_size: 16, sha256: null}`."""
