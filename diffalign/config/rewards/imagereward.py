"""The settings of ImageReward: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """ImageReward: `imagereward: {path: models/rewards/imagereward, batch_size: 16}`."""
