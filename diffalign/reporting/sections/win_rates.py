"""The report's section on win rates: bars, counts, mean scores, and how the images were made."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffalign.evaluation.scores import Columns
from diffalign.evaluation.skills import SKILLS
from diffalign.reporting import charts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any]:
    """Returns the comparisons with their bars, and each policy's mean scores."""
    interval = report.settings.interval
    return {
        "wins": [
            {
                **row.model_dump(),
                "rate": row.win_rate,
                "missing": report.missing(row),
                "control": report.is_control(row),
                "bar": charts.interval_bar(row.win_rate, row.ci_low, row.ci_high, report.roles.style[row.policy]),
            }
            for row in report.comparisons
        ],
        "controls": report.roles.controls,
        "confidence": f"{interval.confidence:.0%}",
        "bootstrap": f"{interval.resamples:,}",
        "axis": charts.interval_axis(),
        "made": made(report),
        "means": mean_scores(report.scores),
    }


def made(report: Material) -> str:
    """Says how the images were made: once where all policies' were made alike, else by policy."""
    found = {name: how(gallery.made) for name, gallery in report.galleries.items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def how(made: Mapping[str, Any]) -> str:
    """Says how one policy's images were made, as its manifest tells."""
    options = [f"{key} {value}" for key, value in made["sampler"].items() if key != "name"]
    sampler = f"sampler {made['sampler']['name']}" + (f" ({', '.join(options)})" if options else "")
    size = f"{made['resolution']} × {made['resolution']} pixels"
    return f"{sampler}, {made['steps']} steps, guidance {made['guidance']:g}, {size}, {made['dtype']}"


def mean_scores(scores: Mapping[str, Columns]) -> dict[str, Any]:
    """Returns each policy's mean of each score but skills, and of how many images where some are missing."""
    names = dict.fromkeys(name for of_policy in scores.values() for name in of_policy)
    columns = [name for name in names if name.rpartition("_")[2] not in SKILLS]
    rows = []
    for policy, of_policy in scores.items():
        cells = []
        for values in (of_policy[name] for name in columns):
            known = values[~np.isnan(values)]
            some = "" if len(known) == len(values) else f" ({len(known):,} of {len(values):,})"
            cells.append(f"{known.mean():.3f}{some}" if len(known) else "–")
        rows.append((policy, cells))
    return {"columns": columns, "rows": rows if columns else []}
