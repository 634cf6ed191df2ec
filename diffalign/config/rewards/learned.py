"""The settings of a reward that this project trained itself: its folder and its batch size."""

from diffalign.config.rewards.weights_folder import WeightsFolder


class Settings(WeightsFolder):
    """A reward model of the section `reward_models`: `learned: {path: models/rewards/learned, batch_size: 64}`."""
