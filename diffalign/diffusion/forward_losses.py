"""The losses of methods that learn from finished pictures and their rewards: pure functions of tensors.

Shapes: B rows (a picture at one noise level), C latent channels, h w latent height and width.
"""

import torch
from torch import Tensor

from diffalign.diffusion.losses import precise

LEAST_SCALE = 1e-5
"""The least size that an error is divided by, as in the authors' code."""


def diffusion_nft(output: Tensor, old: Tensor, target: Tensor, good: Tensor, beta: float) -> Tensor:
    """Returns DiffusionNFT's loss [B] (Zheng et al. 2025, arXiv 2509.16117, eq. 5, as coded).

    (r E(o+) / w+ + (1 - r) E(o-) / w-) / beta, with the implicit outputs o+ = old + beta (o - old) and
    o- = old - beta (o - old), E their mean square over C, h, w from `target`, and w their mean absolute one, as data.
    `good` r [B] in [0, 1] is the probability that a picture is good: r = 1 is fine-tuning on it, r = 0 the opposite,
    at r = 1/2 nothing but a pull to `old`. At o = old the gradient's direction is (2 r - 1) (old - target), whatever
    beta. No gradient goes into `old`, the older policy's output. The authors measure at x0: of outputs instead, errors
    at high noise don't count (sigma / alpha) times as much (15 times at t = 999 of Stable Diffusion); w makes either
    free of a scale.
    """
    output, old, target = precise(output), precise(old.detach()), precise(target)
    away = beta * (output - old)
    return (good * relative_square(old + away - target) + (1 - good) * relative_square(old - away - target)) / beta


def relative_square(error: Tensor) -> Tensor:
    """Returns the mean square [B] of errors [B, C, h, w], divided by their mean absolute value as data."""
    scale = error.detach().abs().mean(dim=(1, 2, 3)).clamp(min=LEAST_SCALE)
    return error.square().mean(dim=(1, 2, 3)) / scale


def goodness(advantages: Tensor, clip: float) -> Tensor:
    """Returns probabilities that pictures are good, 1/2 + A / (2 clip) with A cut to +-clip (arXiv 2509.16117)."""
    return 0.5 + 0.5 * (advantages / clip).clamp(-1, 1)


def old_share(updates: int, start: int, rate: float, most: float) -> float:
    """Returns the share that the old policy keeps of itself after so many updates: rate * (updates - start).

    At least 0, up to `start`: the old policy is the new one; `most` at most. The authors' schedules are (0, 0.001, 0.5)
    and (75, 0.0075, 0.999).
    """
    return min(max(rate * (updates - start), 0.0), most)


def extremes(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the best and the worst picture of each group, by their rows [G], and whether they differ, [G].

    `rewards` [S], NaN where a picture has none, which is neither; `groups` [S] are integers, in their order. The
    earliest of equal ones. A group with one reward only, or without, has nothing to teach: False.
    """
    names = groups.unique()
    of_group = groups == names[:, None]
    known = of_group & ~rewards.isnan()
    best = rewards.where(known, torch.tensor(-torch.inf, dtype=rewards.dtype)).argmax(dim=1)
    worst = rewards.where(known, torch.tensor(torch.inf, dtype=rewards.dtype)).argmin(dim=1)
    return best, worst, known.any(dim=1) & (rewards[best] > rewards[worst])
