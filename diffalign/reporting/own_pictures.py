"""Panels of policies that learn from their own pictures: rewards over pictures and seconds, and what to watch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffalign.config.rollout import Rolled
from diffalign.reporting import charts
from diffalign.reporting.charts import Series
from diffalign.runtime import timings

Lines = Sequence[Mapping[str, float]]

REWARD = "reward_"
"""Prefix of a reward's mean over a rollout, in the curve."""
WATCHED: dict[str, tuple[str, str]] = {
    "reward_std": ("Spread of rewards, standard deviation", "c2"),
    "clip_share": ("Steps outside the trust region, share", "c1"),
    "kl": ("Distance from the reference (KL)", "c5"),
    "dropped": ("Pictures without a reward, share", "c1"),
    "constant": ("Pictures whose group has one reward, share", "c3"),
}
"""Titles and colours of what else is logged of rollouts, by its name in the curve."""


def context(name: str, policy: object, lines: Lines) -> dict[str, Any] | None:
    """Returns the panels of a policy's rewards, and whether seconds are known; None for one of another kind."""
    if not isinstance(policy, Rolled):
        return None
    rate = speed(name, policy)
    panels = [panel for reward in policy.reward for panel in of_reward(reward, policy, lines, rate)]
    for figure, (title, style) in WATCHED.items():
        if found := over(lines, figure, 1.0, title, style):
            panels.append(shown(title, found, charts.STEPS))
    return {"panels": panels, "seconds": rate is not None}


def of_reward(reward: str, policy: Rolled, lines: Lines, rate: float | None) -> list[dict[str, Any]]:
    """Returns the panels of one reward's mean: by the pictures that were made until then, by seconds where known."""
    title = f"Reward {reward}, mean over a rollout"
    axes = [("pictures made", float(policy.batch_size))]
    axes += [("seconds of training", policy.batch_size / rate)] if rate else []
    return [
        shown(title, found, axis)
        for axis, scale in axes
        if (found := over(lines, REWARD + reward, scale, reward, "c4")) is not None
    ]


def over(lines: Lines, figure: str, scale: float, name: str, style: str) -> Series | None:
    """Returns a figure of a curve, its steps times `scale`; None where it wasn't logged."""
    points = [(line["step"] * scale, line[figure]) for line in lines if figure in line]
    return Series(name, style, *np.array(points, np.float64).T) if points else None


def shown(title: str, found: Series, axis: str) -> dict[str, Any]:
    """Returns a panel as the page takes it."""
    return {"title": title, "legend": [], "svg": charts.panel([found], f"{title}, over {axis}", axis=axis)}


def speed(name: str, policy: Rolled) -> float | None:
    """Returns the pictures a second of the policy's last training here, with the same settings; None without one.

    The curve has no seconds, so that a training that was killed and resumed leaves the same one.
    """
    settings = policy.model_dump(mode="json")
    noted = [line for line in timings.rates() if line["rate"] == name]
    same = [line for line in noted if settings.items() <= line["about"]["policy"].items()]
    return float(same[-1]["pairs_per_second"]) if same else None
