"""AlignProp: the reward's gradient through a random number of the rollout's last moves."""

from typing import TYPE_CHECKING

import numpy as np

from diffalign.methods.method import Context, Method
from diffalign.methods.reward_gradient import How, Window, built

if TYPE_CHECKING:
    from diffalign.config.methods.alignprop import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739): its K is drawn once for each optimizer step."""
    gradient = settings.gradient
    low, high = gradient.steps

    def draw(moves: int, rng: np.random.Generator) -> Window:
        return Window(moves, range(moves - int(rng.integers(low, high + 1)), moves))

    return built(settings, context, How(draw, gradient.through, gradient.sees))
