"""The settings of a ReFL policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.reward_gradient import RewardGradient, of_stop
from diffalign.config.pairs import Pairs
from diffalign.config.values import Model, Span


class Gradient(Model):
    """Where the rollout stops: one step, drawn anew for each optimizer step, trains by the picture it foretells."""

    stop: Span
    """The range of steps it's drawn from, as shares of the rollout; ReFL's last 10 of 40: [0.75, 1.0]."""


class Settings(RewardGradient):
    """ReFL (Xu et al. 2023): the reward of a one-step estimate, late in the rollout."""

    title: ClassVar[str] = "ReFL"
    method: Literal["refl"]
    gradient: Gradient

    def window(self) -> tuple[float, float, float]:
        """Returns a rollout and the estimate; one step trains, none is swept through."""
        return self.rollout.steps + 1, 0, 1

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what ReFL can't do, too: a range the wrong way round."""
        return super().problems(pairs) + of_stop(self.gradient.stop)
