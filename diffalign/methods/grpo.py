"""GRPO: the policy gradient of DDPO, each picture held against the others of its prompt."""

from typing import TYPE_CHECKING

from diffalign.methods.method import Context, Method
from diffalign.methods.policy_gradients import MovesMethod
from diffalign.methods.rolled import opened

if TYPE_CHECKING:
    from diffalign.config.methods.grpo import Settings


def build(settings: "Settings", context: Context) -> Method:
    """Builds GRPO (Flow-GRPO, Liu et al. 2025, arXiv 2505.05470; DanceGRPO, Xue et al. 2025, arXiv 2505.07818)."""
    return MovesMethod(*opened(settings, context), settings)
