"""A reward that is ready to score, and what it scored before: stages and commands score with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from diffalign.evaluation import score_cache, scoring
from diffalign.evaluation.score_cache import ScoreCache
from diffalign.evaluation.scores import Floats
from diffalign.evaluation.scoring import Score
from diffalign.generation.gallery import Gallery
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.runtime.environment import default_device


@dataclass(frozen=True)
class Judge:
    """A reward on this machine's device, and the cache of its scores."""

    reward: Reward
    score: Score
    cache: ScoreCache

    @property
    def name(self) -> str:
        """Returns the reward's name."""
        return self.reward.name

    def score_gallery(self, gallery: Gallery) -> dict[str, Floats]:
        """Scores a policy's images [N] by name; see `scoring.score_gallery`."""
        return scoring.score_gallery(gallery, self.score, self.name, self.cache)


def load(name: str, settings: Mapping[str, Any]) -> Judge:
    """Loads a reward with its settings as plain values; UserError where there is none of that name, or no weights."""
    reward = rewards.load(name, settings, default_device())
    cache = score_cache.opened(name, reward.version, settings, rewards.lasting(reward))
    return Judge(reward, partial(rewards.score_images, reward), cache)
