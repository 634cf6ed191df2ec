"""The report's section of the study: its runs with their bars, and the verdicts on its claims."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffalign.reporting import charts
from diffalign.reporting.format import alarm_words, interval, percent
from diffalign.reporting.material import Material
from diffalign.reporting.study_file import Claim, Study

Row = Mapping[str, Any]
HOLDS = {True: "holds", False: "fails", None: "can't be told"}
"""The outcomes of a claim's line, in words."""
STYLE = {"reproduced": "c3", "not reproduced": "c1"}
"""The colour class of a verdict; others are c0."""


def context(report: Material) -> dict[str, Any] | None:
    """Returns the study's groups; None where no study was made, and the section isn't shown."""
    return None if report.study is None else section(report.study)


def section(study: Study) -> dict[str, Any]:
    """Returns the study's groups with their bars and tables, how many claims had which verdict, how it was made."""
    found = study.model_dump()
    groups = [group_rows(group, found["runs"]) for group in found["groups"]]
    return {
        "groups": [group for group in groups if group["rows"]],
        "counts": verdict_counts([claim for group in study.groups for claim in group.claims]),
        "rule": study.rule,
        "about": about(found),
        "base": {"label": study.base.label, "score": number(study.base.score, ".3f")},
        "axis": charts.interval_axis(),
    }


def verdict_counts(claims: Sequence[Claim]) -> str:
    """Says how many claims had which verdict."""
    verdicts = [claim.verdict for claim in claims]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))


def about(found: Row) -> str:
    """Says how the runs were made and judged, in words."""
    steps = f", {found['steps']:,} steps each" if found["steps"] else ""
    return (
        f"{len(found['runs'])} runs{steps}; each makes one image for each of {found['prompts']:,} prompts of the "
        f"{found['split']} split, from the base's noise; the judge is the {found['judge']}, which is in-family. Bars "
        f"are {found['confidence']:.0%} intervals over prompts: they don't cover another training seed, and of many "
        f"intervals some miss. Code: {found['commit']}."
    )


def group_rows(group: Row, runs: Mapping[str, Row]) -> dict[str, Any]:
    """Returns a group's runs that were made, with their bars, and its claims."""
    rows = [run_row(runs[name]) for name in group["runs"] if name in runs]
    return {"title": group["title"], "rows": rows, "claims": [claim_row(claim) for claim in group["claims"]]}


def run_row(row: Row) -> dict[str, Any]:
    """Returns a run: its win rate's bar, and its cells as text."""
    end, accuracy = row["end"], row["accuracy"]
    return {
        "label": row["label"],
        "rate": percent(row["win_rate"]),
        "interval": interval(row),
        "bar": charts.interval_bar(row["win_rate"], row["ci_low"], row["ci_high"]),
        "cells": [
            alarm_words(row["alarms"]),
            percent(end.get("implicit_accuracy")),
            f"{percent(accuracy['win_rate'])} ({interval(accuracy)})" if accuracy else "–",
            number(row["score"], ".3f"),
            number(end.get("winner_change"), "+.1e"),
            number(end.get("loser_change"), "+.1e"),
            percent(row["moved"]),
            number(row["kl"], ",.0f"),
            number(row["training_seconds"], ",.0f"),
            f"{row['chosen']:,}",
        ],
    }


def claim_row(claim: Row) -> dict[str, Any]:
    """Returns a claim with its verdict and its lines in words."""
    lines = [{**line, "holds": HOLDS[line["holds"]]} for line in claim["lines"]]
    return {**claim, "style": STYLE.get(claim["verdict"], "c0"), "lines": lines}


def number(value: float | None, form: str) -> str:
    """Returns a figure in a format; a dash for none."""
    return "–" if value is None else format(value, form)
