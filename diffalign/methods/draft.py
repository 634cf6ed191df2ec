"""DRaFT: the reward's gradient through the last K moves of the rollout; through a noised-again picture's: DRaFT-LV."""

from typing import TYPE_CHECKING

import numpy as np

from diffalign.methods.method import Context, Method
from diffalign.methods.reward_gradient import How, Window, built

if TYPE_CHECKING:
    from diffalign.config.methods.draft import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds DRaFT, DRaFT-K or DRaFT-LV (Clark et al. 2023, arXiv 2309.17400)."""
    gradient = settings.gradient

    def draw(moves: int, rng: np.random.Generator) -> Window:
        return Window(moves, range(moves - gradient.steps, moves))

    return built(settings, context, How(draw, gradient.through, gradient.sees, gradient.renoise))
