"""The report's matrix: each policy, by what it was aligned with, against each judge, by what that learnt from."""

from collections.abc import Mapping
from typing import Any

from diffalign.evaluation.results import Comparison
from diffalign.reporting.format import interval, percent
from diffalign.reporting.material import Material

EMPTY = {"rate": "–", "interval": "", "side": "", "tint": 0, "in_family": False, "told": False}
"""The cell of what nobody judged."""


def context(report: Material) -> dict[str, Any] | None:
    """Returns a table for each set of prompts: a row a policy, a column a judge; None where nobody judged."""
    rows = report.results.comparisons
    if not rows:
        return None
    sets = list(dict.fromkeys(row.set for row in rows))
    voted = people(report) if len(sets) == 1 else {}  # votes aren't told apart by set
    judges = [{"name": judge.name, "families": judge.families} for judge in report.results.rewards]
    voters = "simulated voters" if report.people and report.people.simulated else "people"
    return {
        "judges": [*judges, *([{"name": voters, "families": ()}] if voted else [])],
        "sets": [of_set(report, name, voted) for name in sets],
        "baseline": report.roles.baseline,
        "level": 1 - report.settings.interval.confidence,
    }


def people(report: Material) -> dict[str, dict[str, Any]]:
    """Returns each policy's cell by people's votes: which image is better overall."""
    votes = report.people.win_rates if report.people else []
    return {
        row.policy: {**written(row.win_rate, row.model_dump()), "in_family": False, "told": False}
        for row in votes
        if row.question == "overall" and row.baseline == report.roles.baseline and row.win_rate is not None
    }


def of_set(report: Material, name: str, voted: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns one set's table: the policies with what they learnt from, their cells in the judges' order.

    `voted` are cells by people's votes, the last column where there are any.
    """
    found = {(row.policy, row.scorer): row for row in report.results.comparisons if row.set == name}
    judges, learnt = [judge.name for judge in report.results.rewards], report.results.policies
    rows = [
        {
            "policy": policy,
            "method": learnt[policy].method if policy in learnt else "",
            "families": learnt[policy].families if policy in learnt else (),
            "cells": [
                *(cell(report, found.get((policy, judge))) for judge in judges),
                *([voted.get(policy, EMPTY)] if voted else []),
            ],
        }
        for policy in dict.fromkeys(policy for policy, _ in found)
    ]
    return {"set": name, "rows": rows}


def cell(report: Material, row: Comparison | None) -> dict[str, Any]:
    """Returns a judge's cell, and what marks it."""
    if row is None or row.win_rate is None:
        return EMPTY
    told = row.p_holm is not None and row.p_holm < 1 - report.settings.interval.confidence
    return {**written(row.win_rate, row.model_dump()), "in_family": row.in_family, "told": told}


def written(rate: float, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a win rate and its interval as text, its colour by the distance from a half."""
    side = "up" if rate > 0.5 else "down"
    return {"rate": percent(rate), "interval": interval(row), "side": side, "tint": round(60 * abs(rate - 0.5))}
