"""DDPO: a clipped, importance-weighted policy gradient along the moves of a stochastic rollout."""

from typing import TYPE_CHECKING

from diffalign.methods.method import Context, Method
from diffalign.methods.policy_gradients import MovesMethod
from diffalign.methods.rolled import opened

if TYPE_CHECKING:
    from diffalign.config.methods.ddpo import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds DDPO (Black et al. 2023, arXiv 2305.13301) on a run's prompts and rewards."""
    return MovesMethod(*opened(settings, context), settings)
