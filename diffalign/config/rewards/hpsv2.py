"""The settings of HPSv2.0: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """HPSv2.0: `hpsv2: {path: models/rewards/hpsv2, batch_size: 16}`."""
