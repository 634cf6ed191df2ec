"""The settings of LAION's aesthetic predictor: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """The aesthetic predictor, version 2: `aesthetic_v2: {path: models/rewards/aesthetic_v2, batch_size: 16}`."""
