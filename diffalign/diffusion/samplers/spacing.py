"""Spaces a sampler's timesteps over a diffusion's schedule (Lin et al. 2023, arXiv 2305.08891, table 2).

All are falling. T is the number of timesteps of the schedule.
"""

from typing import Literal

import numpy as np

from diffalign.core.errors import UserError

Spacing = Literal["leading", "trailing", "linspace"]


def leading(T: int, steps: int, parts: int) -> list[int]:
    """Returns the `steps` largest of the multiples below `parts` of T // parts, plus one (Stable Diffusion's offset).

    UserError beyond T // 2 parts, where the spacing no longer reaches the noisiest timesteps.
    """
    if not 1 <= steps <= parts <= T // 2:
        raise UserError(
            f"generate.steps: expected 1..{T // 2 - parts + steps} with spacing leading, half of the model's {T} "
            f"timesteps, got {steps}"
        )
    return [i * (T // parts) + 1 for i in reversed(range(parts - steps, parts))]


def trailing(T: int, steps: int) -> list[int]:
    """Returns `steps` timesteps from T - 1 down, T / steps apart, rounded."""
    if not 1 <= steps <= T:
        raise UserError(f"generate.steps: expected 1..{T}, the model's timesteps, got {steps}")
    return [round(T - i * (T / steps)) - 1 for i in range(steps)]


def linspace(T: int, count: int) -> list[float]:
    """Returns `count` float32 times from T - 1 to 0, not rounded. UserError below 2: the only time would be 0."""
    if not 2 <= count <= T:
        raise UserError(f"generate.steps: expected 2..{T} with spacing linspace, got {count}")
    times: list[float] = np.linspace(0, T - 1, count, dtype=np.float32)[::-1].tolist()
    return times


def rounded(T: int, count: int) -> list[int]:
    """Returns `linspace`'s times as timesteps."""
    linspace(T, count)  # for its error
    return [int(t) for t in np.linspace(0, T - 1, count).round()[::-1]]
