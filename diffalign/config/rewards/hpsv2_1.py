"""The settings of HPSv2.1: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """HPSv2.1: `hpsv2_1: {path: models/rewards/hpsv2_1, batch_size: 16}`."""
