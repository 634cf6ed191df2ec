"""The settings of HPSv2.0: its folder and its batch size."""

from diffalign.config.rewards.clip_folder import ClipFolder


class Settings(ClipFolder):
    """HPSv2.0: `hpsv2: {path: models/rewards/hpsv2, batch_size: 16}`."""
