"""Mixes a policy's network with the base's along a chain: annealed importance guidance.

Jena et al. 2024, arXiv 2409.06493: the base decides on the composition, in the noise, and with it on how diverse images
are; the policy on what comes after.
"""

from torch import Tensor

from diffalign.diffusion.process import Cond, Denoise


def weight(step: int, steps: int, power: float) -> float:
    """Returns the policy's weight at a step: 0 at the first, towards 1 at the end of the chain."""
    return float((step / steps) ** power)


def mixed(policy: Denoise, base: Denoise, times: list[float], power: float) -> Denoise:
    """Returns the network (1 - w) base + w policy; `times` are those of a sampler's steps, in their order.

    All rows of a call have one time. Both networks are asked at each step.
    """
    steps = {time: i for i, time in enumerate(times)}

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        w = weight(steps[t[0].item()], len(times), power)
        return (1 - w) * base(x_t, t, cond) + w * policy(x_t, t, cond)

    return denoise
