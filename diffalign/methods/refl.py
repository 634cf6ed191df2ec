"""ReFL: a late move of the rollout trains by the reward of the picture that it foretells."""

from typing import TYPE_CHECKING

import numpy as np

from diffalign.config.methods.reward_gradient import stops
from diffalign.methods.method import Context, Method
from diffalign.methods.reward_gradient import How, Window, built

if TYPE_CHECKING:
    from diffalign.config.methods.refl import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds ReFL (Xu et al. 2023, arXiv 2304.05977): the move is drawn once for each optimizer step."""

    def draw(moves: int, rng: np.random.Generator) -> Window:
        move = int(rng.choice(stops(settings.gradient.stop, moves)))
        return Window(move + 1, (move,))

    return built(settings, context, How(draw, "exact", "estimate"))
