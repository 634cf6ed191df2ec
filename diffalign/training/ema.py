"""The exponential moving average of a policy's weights over the steps of its training."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EMA:
    """Keeps average <- decay * average + (1 - decay) * weight after each step, from the init's weights on; in fp32.

    After n steps a weight w_i has the share (1 - decay) * decay^(n - i), the init decay^n: with 0.9999 that's 37%
    after 10,000 steps.
    """

    decay: float
    averages: dict[str, Tensor]

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor]) -> None:
        """Takes in the weights after a step, in place."""
        current = [weights[name].detach().float() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - self.decay)


def start(weights: dict[str, Tensor], decay: float) -> EMA:
    """Returns the average before the first step: copies of the weights."""
    return EMA(decay, {name: weight.detach().float().clone() for name, weight in weights.items()})
