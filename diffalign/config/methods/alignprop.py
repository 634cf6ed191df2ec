"""The settings of an AlignProp policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.reward_gradient import RewardGradient, Sees, Through, too_many
from diffalign.config.pairs import Pairs
from diffalign.config.values import Count, Model


class Gradient(Model):
    """Which steps train: a number of last ones, drawn anew for each optimizer step."""

    steps: tuple[Count, Count]
    """The fewest and the most."""
    through: Through
    sees: Sees


class Settings(RewardGradient):
    """AlignProp (Prabhudesai et al. 2023): the reward's gradient through a random number of last steps."""

    title: ClassVar[str] = "AlignProp"
    method: Literal["alignprop"]
    gradient: Gradient

    def window(self) -> tuple[float, float, float]:
        """Returns a rollout; the mean number of last steps, all but the first of them swept through."""
        how, count = self.gradient, sum(self.gradient.steps) / 2
        rolled = self.rollout.steps + (how.sees == "estimate")
        return rolled, (count - 1) * (how.through == "exact"), count

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what AlignProp can't do, too: more steps than there are, the most below the fewest."""
        low, high = self.gradient.steps
        lines = super().problems(pairs) + too_many(high, self.rollout.steps)
        if low > high:
            lines.append(f"gradient.steps: expected the fewest and the most, got {[low, high]}")
        return lines
