"""The settings of the CLIP score with ViT-L/14: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """The CLIP score with ViT-L/14: `clip_score_l14: {path: models/rewards/clip_l14, batch_size: 16}`."""
