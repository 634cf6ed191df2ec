"""The report's section on the gate: of each policy every condition, its figure and verdict."""

from typing import Any

from diffalign.evaluation.verdicts import PolicyRulings, Ruling, Verdicts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns each policy's rulings; None where the gate wasn't asked."""
    return None if report.gate is None else {"policies": [of_policy(policy) for policy in report.gate.policies]}


def of_policy(policy: PolicyRulings) -> dict[str, Any]:
    """Returns a policy's verdict and its rulings, figures as text."""
    rows = [{**ruling.model_dump(), "shown": shown(ruling)} for ruling in policy.rulings]
    return {"policy": policy.policy, "verdict": policy.verdict, "rulings": rows}


def shown(ruling: Ruling) -> str:
    """Returns a figure with its interval; a dash where nothing was measured."""
    if ruling.figure is None:
        return "–"
    ends = f" ({ruling.low:.3g} to {ruling.high:.3g})" if ruling.low is not None and ruling.high is not None else ""
    return f"{ruling.figure:.3g}{ends}"


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
