"""The settings of a DRaFT policy."""

from typing import ClassVar, Literal

from diffalign.config.methods.reward_gradient import RewardGradient, Sees, Through, too_many
from diffalign.config.pairs import Pairs
from diffalign.config.values import Count, Model, Whole


class Gradient(Model):
    """Which steps train: DRaFT-K's K; as many as the rollout's: DRaFT; 1 with `renoise`: DRaFT-LV."""

    steps: Count
    """The last steps of the rollout, which train."""
    through: Through
    sees: Sees
    renoise: Whole
    """Times that the picture is noised again to where those steps begin, whose gradients are averaged; 0: not."""


class Settings(RewardGradient):
    """DRaFT (Clark et al. 2023): the reward's gradient through the last steps."""

    title: ClassVar[str] = "DRaFT"
    method: Literal["draft"]
    gradient: Gradient

    @property
    def scored(self) -> int:
        """Returns how often a picture is scored: each of its endings is."""
        return max(1, self.gradient.renoise)

    def window(self) -> tuple[float, float, float]:
        """Returns a rollout and the endings noised again; each ending's steps, all but the first swept through."""
        how, endings = self.gradient, max(1, self.gradient.renoise)
        again = how.steps if how.renoise else 0
        rolled = self.rollout.steps + endings * (again + (how.sees == "estimate"))
        return rolled, endings * (how.steps - 1) * (how.through == "exact"), endings * how.steps

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what DRaFT can't do, too: more steps than there are."""
        return super().problems(pairs) + too_many(self.gradient.steps, self.rollout.steps)
