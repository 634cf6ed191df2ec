"""The report's section on bias: what images show unasked, and whose preference a policy learned."""

from typing import Any

from diffalign.evaluation.audits.findings import Agreement, Composition, Estimated, Shift
from diffalign.reporting import charts
from diffalign.reporting.format import chance
from diffalign.reporting.material import Material

SURE = 0.05
"""p values at or below it are marked."""


def context(report: Material) -> dict[str, Any] | None:
    """Returns the attributes' shifts and the groups of raters; None where neither was looked at."""
    audit = report.audit
    if audit is None or not (audit.shifts or audit.composition):
        return None
    return {
        "shifts": [of_shift(row) for row in audit.shifts],
        "stated": any(row.error_rate is not None for row in audit.shifts),
        "several": len({row.set for row in audit.shifts}) > 1,
        "composition": [of_composition(report, row) for row in audit.composition],
        "ungrouped": len(audit.ungrouped),
        "axis": charts.interval_axis(),
    }


def of_shift(row: Shift) -> dict[str, Any]:
    """Returns one attribute's distribution beside the baseline's, and how far it moved."""
    values = dict.fromkeys([*row.baseline_shares, *row.shares])
    shares = [(value, row.baseline_shares.get(value, 0.0), row.shares.get(value, 0.0)) for value in values]
    stated = "" if row.error_rate is None else f"stated error rate {row.error_rate:.1%}"
    return {
        **row.model_dump(),
        "moved": [f"{value} {before:.0%} → {after:.0%}" for value, before, after in shares],
        "shown": distance(row.distance),
        "p": chance(row.p),
        "sure": row.p is not None and row.p <= SURE,
        "errors": stated + (", corrected" if row.corrected else ""),
    }


def of_composition(report: Material, row: Composition) -> dict[str, Any]:
    """Returns a policy's or a judge's agreement with each group of raters, with bars."""
    style = report.roles.style.get(row.name, "c5")
    return {
        "name": row.name,
        "kind": row.kind,
        "gap": distance(row.gap),
        "p": chance(row.p),
        "sure": row.p is not None and row.p <= SURE,
        "groups": [of_group(group, style) for group in row.groups],
    }


def of_group(group: Agreement, style: str) -> dict[str, Any]:
    """Returns one group's agreement with its bar."""
    bar = charts.interval_bar(group.rate, group.low, group.high, style)
    return {**group.model_dump(), "ci_low": group.low, "ci_high": group.high, "bar": bar}


def distance(found: Estimated) -> str:
    """Returns a figure from 0 to 1 with its interval; a dash where it can't be told."""
    if found.value is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.value:.2f}{ends}"
