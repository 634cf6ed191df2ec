"""The settings of a DRTune policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.reward_gradient import RewardGradient, of_stop, stops, too_many
from diffalign.config.pairs import Pairs
from diffalign.config.values import Count, Model, Span


class Gradient(Model):
    """Which steps train: some spread evenly over the rollout up to where it stops, both drawn anew each step."""

    steps: Count
    """The number of them."""
    stop: Span
    """The range of the last step's place, as shares of the rollout; its estimate is what the reward sees."""


class Settings(RewardGradient):
    """DRTune (Wu et al. 2024): networks' inputs are data, so that early steps can train without huge gradients."""

    title: ClassVar[str] = "DRTune"
    method: Literal["drtune"]
    gradient: Gradient

    def window(self) -> tuple[float, float, float]:
        """Returns a rollout and the estimate; the steps that train, of which none is swept through."""
        return self.rollout.steps + 1, 0, self.gradient.steps

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what DRTune can't do, too: more steps than there are before the earliest stop, an empty range."""
        lines = super().problems(pairs) + of_stop(self.gradient.stop)
        return lines + too_many(self.gradient.steps, stops(self.gradient.stop, self.rollout.steps)[0] + 1)
