"""The settings of PickScore: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """PickScore: `pickscore: {path: models/rewards/pickscore, batch_size: 16}`."""
