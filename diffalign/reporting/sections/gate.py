"""The report's section on the gate: of each policy every condition, its figure and verdict."""

from typing import Any

from diffalign.evaluation.verdicts import PolicyRulings, Ruling, Verdicts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns a row for each condition, a cell for each policy; None where the gate wasn't asked."""
    if report.gate is None:
        return None
    policies = report.gate.policies
    found = [numbered(policy) for policy in policies]
    return {
        "policies": [{"policy": policy.policy, "verdict": policy.verdict} for policy in policies],
        "rows": [
            {"name": key[0], "cells": [cell(of_policy.get(key)) for of_policy in found]}
            for key in dict.fromkeys(key for of_policy in found for key in of_policy)
        ],
    }


def numbered(policy: PolicyRulings) -> dict[tuple[str, int], Ruling]:
    """Returns a policy's rulings by their condition and, where it rules more than once, which time it is."""
    found: dict[tuple[str, int], Ruling] = {}
    for ruling in policy.rulings:
        times = sum(name == ruling.name for name, _ in found)
        found[ruling.name, times] = ruling
    return found


def cell(ruling: Ruling | None) -> dict[str, str] | None:
    """Returns a policy's cell; None where the condition doesn't speak of it."""
    if ruling is None:
        return None
    note = "" if ruling.verdict == "passed" else ruling.note
    return {"verdict": ruling.verdict, "shown": number(ruling.figure), "interval": ends(ruling), "note": note}


def ends(ruling: Ruling) -> str:
    """Returns the bounds of a figure's interval; empty where it has none."""
    if ruling.low is None or ruling.high is None:
        return ""
    return f"({number(ruling.low)} to {number(ruling.high)})"


def number(value: float | None) -> str:
    """Returns a figure with three decimals at most; a dash where nothing was measured."""
    return "–" if value is None else f"{round(value, 3) + 0.0:g}"  # adding 0 makes -0 a 0


def summary(verdicts: Verdicts, policy: str) -> str:
    """Says in a line whether the gate lets a policy pass; empty for a policy that it didn't rule on."""
    found = next((one for one in verdicts.policies if one.policy == policy), None)
    if found is None:
        return ""
    counts = {v: sum(r.verdict == v for r in found.rulings) for v in ("failed", "missing")}
    if found.verdict == "passed":
        return f"The gate lets {policy} pass: all {len(found.rulings)} conditions hold."
    why = " and ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"The gate doesn't let {policy} pass: {why} of {len(found.rulings)} conditions."
