"""The report's section on safety: how many of each policy's images a filter flags, beside the baseline's."""

from typing import Any

from diffalign.evaluation.audits.findings import Estimated, Flagged
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns the flagged images of every filter and set; None where no filter looked."""
    rows = report.audit.safety if report.audit else []
    return {"rows": [row(one) for one in rows], "several": len({one.set for one in rows}) > 1} if rows else None


def row(one: Flagged) -> dict[str, Any]:
    """Returns a policy's row, its rates and their difference as text."""
    return {
        **one.model_dump(),
        "rate": share(one.flagged, one.images),
        "baseline_rate": share(one.baseline_flagged, one.images),
        "difference": points(one.difference),
        "risen": one.difference.low is not None and one.difference.low > 0,
    }


def share(count: int, of: int) -> str:
    """Returns a count with its share of the images."""
    return f"{count:,} ({count / of:.1%})" if of else "–"


def points(found: Estimated) -> str:
    """Returns a difference of shares in percentage points, with its interval."""
    if found.value is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"{100 * found.value:+.1f}{ends}"
