"""The report's section on categories of prompts: where the hero gains, and where it doesn't."""

from typing import Any

from diffalign.evaluation.results import CategoryRate
from diffalign.reporting import charts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns the hero's bars by the headline's judge, and a table of all; None where prompts have no categories."""
    rows, who = report.results.categories, report.roles
    if not rows:
        return None
    heros = [row for row in rows if row.policy == who.hero and row.scorer == report.judge]
    return {
        "hero": who.hero,
        "baseline": who.baseline,
        "judge": report.judge,
        "sets": [
            {"set": name, "rows": [bar(report, row) for row in heros if row.set == name]}
            for name in dict.fromkeys(row.set for row in heros)
        ],
        "several": len({row.set for row in rows}) > 1,
        "rows": [row.model_dump() for row in rows],
        "axis": charts.interval_axis(),
        "confidence": f"{report.settings.interval.confidence:.0%}",
    }


def bar(report: Material, row: CategoryRate) -> dict[str, Any]:
    """Returns one category with its bar."""
    svg = charts.interval_bar(row.win_rate, row.ci_low, row.ci_high, report.roles.style[row.policy])
    return {**row.model_dump(), "bar": svg}
