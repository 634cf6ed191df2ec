"""The settings of a reward over HTTP of one's own."""

from diffalign.config.rewards.service import Service
from diffalign.config.values import Count


class Settings(Service):
    """A service that speaks docs/evaluation.md's contract.

    `version`: another one says that the same image would get another score. `trained_on`: what the report says that it
    learnt from. `batch_size`: images in a request.
    """

    version: str
    trained_on: str
    batch_size: Count
