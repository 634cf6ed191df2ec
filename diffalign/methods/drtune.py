"""DRTune: moves spread over the whole rollout train, with networks' inputs as data, by the picture it foretells."""

from typing import TYPE_CHECKING

import numpy as np

from diffalign.config.methods.reward_gradient import stops
from diffalign.methods.method import Context, Method
from diffalign.methods.reward_gradient import How, Window, built

if TYPE_CHECKING:
    from diffalign.config.methods.drtune import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds DRTune (Wu et al. 2024, arXiv 2405.00760): where it stops and which moves train are drawn each step."""
    gradient = settings.gradient

    def draw(moves: int, rng: np.random.Generator) -> Window:
        stop = int(rng.choice(stops(gradient.stop, moves))) + 1
        phase = rng.random()
        return Window(stop, [int((k + phase) * stop / gradient.steps) for k in range(gradient.steps)])

    return built(settings, context, How(draw, "straight", "estimate"))
