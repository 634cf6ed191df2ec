"""The settings of the CLIP score with ViT-L/14: its folder and its batch size."""

from diffalign.config.rewards.clip_folder import ClipFolder


class Settings(ClipFolder):
    """The CLIP score with ViT-L/14: `clip_score_l14: {path: models/rewards/clip_l14, batch_size: 16}`."""
