"""What is kept of a training's curve: its end, and the course of rewards over the pictures that were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffalign.monitoring import curve

END = 0.1
"""Share of a curve's points, its last, that its end values are means of."""
ENDING = ("loss", "implicit_accuracy", "winner_change", "loser_change", "gradient_end", "gradient_begin")
"""The figures whose end is kept; of rewards the first values, too."""
COURSE = ("kl", "clip_share", f"{curve.PREFIX}score_")
"""The beginnings of the figures whose course is kept beside rewards'."""
Lines = Sequence[Mapping[str, float]]


def read(path: Path) -> list[dict[str, float]]:
    """Reads the curve of the run that its file is called after."""
    return curve.read(path, path.stem)


def end(lines: Lines) -> dict[str, float]:
    """Returns the means of a training curve's last points; of own pictures' rewards also of its first."""
    found = {}
    for name in ENDING:
        if points := [line[name] for line in lines if name in line]:
            found[name] = float(np.mean(points[-count(points) :]))
    for name in rewards(lines):
        points = [line[name] for line in lines if name in line]
        found |= {f"{name}_first": float(np.mean(points[: count(points)]))}
        found |= {name: float(np.mean(points[-count(points) :]))}
    return found


def course(lines: Lines, pictures: int) -> dict[str, list[list[float]]]:
    """Returns each reward's points [pictures made until then, its mean], and of what is watched beside; 4 digits.

    `pictures` a step; a step's own count: its point is the rollout that it learns from.
    """
    names = [*rewards(lines), *sorted({n for line in lines for n in line if n.startswith(COURSE)})]
    names = [name for name in names if not name.endswith(("_se", "_low", "_high"))]
    return {
        name: [[line["step"] * pictures, float(f"{line[name]:.4g}")] for line in lines if name in line]
        for name in names
    }


def rewards(lines: Lines) -> list[str]:
    """Returns the names of the rewards' means in a curve."""
    return sorted({name for line in lines for name in line if name.startswith("reward_")} - {"reward_std"})


def count(points: Sequence[float]) -> int:
    """Returns how many points are a curve's end."""
    return max(round(len(points) * END), 1)
