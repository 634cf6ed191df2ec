"""The settings of the CLIP score with ViT-H/14: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """The CLIP score with ViT-H/14: `clip_score_h14: {path: models/rewards/clip_h14, batch_size: 16}`."""
