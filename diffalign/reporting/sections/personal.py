"""The report's section on personal policies: each policy's win rate by each simulated rater's own utility."""

from typing import Any

from diffalign.evaluation.results import RaterRate
from diffalign.reporting.material import Material
from diffalign.reporting.sections.matrix import EMPTY, written


def context(report: Material) -> dict[str, Any] | None:
    """Returns a table for each set of prompts: a row a policy, a column a rater; None where no rater judged."""
    rows = report.results.by_rater
    if not rows:
        return None
    sets = dict.fromkeys(row.set for row in rows)
    return {
        "raters": list(dict.fromkeys(row.rater for row in rows)),
        "sets": [of_set(name, [row for row in rows if row.set == name]) for name in sets],
        "baseline": report.roles.baseline,
    }


def of_set(name: str, rows: list[RaterRate]) -> dict[str, Any]:
    """Returns one set's table, and for how many raters with a policy of their own that one's rate is the highest."""
    policies, raters = (list(dict.fromkeys(found)) for found in zip(*((r.policy, r.rater) for r in rows), strict=True))
    found = {(row.policy, row.rater): row for row in rows}
    having = [rater for rater in raters if any(row.own for row in rows if row.rater == rater)]
    told = [{"policy": policy, "cells": [cell(found[policy, rater]) for rater in raters]} for policy in policies]
    return {"set": name, "rows": told, "having": len(having), "won": sum(own_is_best(rows, one) for one in having)}


def own_is_best(rows: list[RaterRate], rater: str) -> bool:
    """Tells whether by a rater one of its own policies has a higher win rate than every other's."""
    by = [row for row in rows if row.rater == rater and row.win_rate is not None]
    own, others = ([row.win_rate or 0.0 for row in by if row.own is mine] for mine in (True, False))
    return bool(own) and max(own) > max(others, default=-1.0)


def cell(row: RaterRate) -> dict[str, Any]:
    """Returns a rater's cell: the rate, its interval, and whether the policy is the rater's own."""
    if row.win_rate is None:
        return {**EMPTY, "own": row.own}
    return {**written(row.win_rate, row.model_dump()), "own": row.own}
