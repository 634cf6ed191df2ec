"""The settings of PickScore: its folder and its batch size."""

from diffalign.config.rewards.clip_folder import ClipFolder


class Settings(ClipFolder):
    """PickScore: `pickscore: {path: models/rewards/pickscore, batch_size: 16}`."""
