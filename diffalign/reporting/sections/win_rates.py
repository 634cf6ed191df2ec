"""The report's section on win rates: bars, counts, mean scores, and how the images were made."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffalign.evaluation.results import Comparison, OverSeeds
from diffalign.evaluation.scores import Columns
from diffalign.evaluation.skills import SKILLS
from diffalign.reporting import charts
from diffalign.reporting.format import chance
from diffalign.reporting.material import Material

MOST_BARS = 24
"""Comparisons beyond which only the headline's judge has bars; the table has all."""


def context(report: Material) -> dict[str, Any]:
    """Returns the comparisons with their bars, trainings over several seeds, and each policy's mean scores."""
    interval, rows = report.settings.interval, report.comparisons
    barred = rows if len(rows) <= MOST_BARS else [row for row in rows if row.scorer == report.judge]
    return {
        "wins": [of_comparison(report, row) for row in rows],
        "bars": [of_comparison(report, row) for row in barred],
        "several": len({row.set for row in rows}) > 1,
        "over_seeds": [of_seeds(row) for row in report.results.over_seeds],
        "controls": report.roles.controls,
        "confidence": f"{interval.confidence:.0%}",
        "bootstrap": f"{interval.resamples:,}",
        "axis": charts.interval_axis(),
        "made": made(report),
        "means": mean_scores(report.scores),
    }


def of_comparison(report: Material, row: Comparison) -> dict[str, Any]:
    """Returns a comparison with its bar, its test and its effect size as text."""
    return {
        **row.model_dump(),
        "rate": row.win_rate,
        "missing": report.missing(row),
        "control": report.is_control(row),
        "p": chance(row.p_holm),
        "effect": "–" if row.effect is None else f"{row.effect:+.2f}",
        "bar": charts.interval_bar(row.win_rate, row.ci_low, row.ci_high, report.roles.style[row.policy]),
    }


def of_seeds(row: OverSeeds) -> dict[str, Any]:
    """Returns trainings that differ in their seed only, with their bar."""
    bar = charts.interval_bar(row.win_rate, row.ci_low, row.ci_high)
    return {**row.model_dump(), "names": ", ".join(row.policies), "p": chance(row.p), "bar": bar}


def made(report: Material) -> str:
    """Says how the images were made: once where all policies' were made alike, else by policy."""
    found = {name: how(gallery.made) for name, gallery in report.galleries.items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def how(made: Mapping[str, Any]) -> str:
    """Says how one policy's images were made, as its manifest tells, if it has one."""
    if made["sampler"] is None:
        return f"in a way that isn't known, {made['resolution']} pixels"
    options = [f"{key} {value}" for key, value in made["sampler"].items() if key != "name"]
    sampler = f"sampler {made['sampler']['name']}" + (f" ({', '.join(options)})" if options else "")
    size = f"{made['resolution']} × {made['resolution']} pixels"
    rules = "".join(f", {told(name, settings)}" for name, settings in made["rules"].items())
    return f"{sampler}, {made['steps']} steps, guidance {made['guidance']:g}{rules}, {size}, {made['dtype']}"


def told(rule: str, settings: Mapping[str, Any]) -> str:
    """Names a rule of sampling with its settings."""
    return f"{rule} ({', '.join(f'{key} {value}' for key, value in settings.items() if value is not None)})"


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
