"""The data of `dvc plots show`: one JSON list of rows for each plot that dvc.yaml names, over all policies."""

from collections.abc import Mapping
from typing import Any

from diffalign.monitoring.curve import PREFIX
from diffalign.reporting.material import Material

Row = dict[str, Any]
CURVES = {
    "loss": "loss",
    "accuracy": f"{PREFIX}accuracy",
    "winner_change": f"{PREFIX}winner_relative",
}
"""Plots over optimizer steps, and the figure of the training curve that each shows."""


def tables(report: Material) -> dict[str, list[Row]]:
    """Returns the rows of each plot by its name; a plot whose figure no policy logged has none."""
    return {name: over_steps(report.curves, name, figure) for name, figure in CURVES.items()} | {
        "win_rates": win_rates(report)
    }


def over_steps(curves: Mapping[str, list[dict[str, float]]], name: str, figure: str) -> list[Row]:
    """Returns `{"policy", "step", NAME}` for each line of the curves that has the figure."""
    return [
        {"policy": policy, "step": int(line["step"]), name: line[figure]}
        for policy, lines in curves.items()
        for line in lines
        if figure in line
    ]


def win_rates(report: Material) -> list[Row]:
    """Returns `{"policy", "judge", "win_rate", "low", "high"}` for each comparison with the baseline, in percent."""
    several = len(report.sets) > 1
    return [
        {
            "policy": row.policy,
            "judge": f"{row.scorer}, {row.set}" if several else row.scorer,
            "win_rate": 100 * row.win_rate,
            "low": None if row.ci_low is None else 100 * row.ci_low,
            "high": None if row.ci_high is None else 100 * row.ci_high,
        }
        for row in report.results.comparisons
        if row.win_rate is not None
    ]
