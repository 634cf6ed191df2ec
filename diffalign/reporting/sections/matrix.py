"""The report's matrix: each policy, by what it was aligned with, against each judge, by what that learnt from."""

from typing import Any

from diffalign.evaluation.results import Comparison
from diffalign.reporting.format import interval, percent
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns a table for each set of prompts: a row a policy, a column a judge; None where nobody judged."""
    rows = report.results.comparisons
    if not rows:
        return None
    return {
        "judges": [{"name": judge.name, "families": judge.families} for judge in report.results.rewards],
        "sets": [of_set(report, name) for name in dict.fromkeys(row.set for row in rows)],
        "baseline": report.roles.baseline,
        "level": 1 - report.settings.interval.confidence,
    }


def of_set(report: Material, name: str) -> dict[str, Any]:
    """Returns one set's table: the policies with what they learnt from, and their cells in the judges' order."""
    found = {(row.policy, row.scorer): row for row in report.results.comparisons if row.set == name}
    judges, learnt = [judge.name for judge in report.results.rewards], report.results.policies
    rows = [
        {
            "policy": policy,
            "method": learnt[policy].method if policy in learnt else "",
            "families": learnt[policy].families if policy in learnt else (),
            "cells": [cell(report, found.get((policy, judge))) for judge in judges],
        }
        for policy in dict.fromkeys(policy for policy, _ in found)
    ]
    return {"set": name, "rows": rows}


def cell(report: Material, row: Comparison | None) -> dict[str, Any]:
    """Returns a cell: its figures as text, its colour by the distance from a half, and what marks it."""
    if row is None or row.win_rate is None:
        return {"rate": "–", "interval": "", "side": "", "tint": 0, "in_family": False, "told": False}
    return {
        "rate": percent(row.win_rate),
        "interval": interval(row.model_dump()),
        "side": "up" if row.win_rate > 0.5 else "down",
        "tint": round(60 * abs(row.win_rate - 0.5)),
        "in_family": row.in_family,
        "told": row.p_holm is not None and row.p_holm < 1 - report.settings.interval.confidence,
    }
