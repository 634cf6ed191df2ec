"""The report's section on the accuracy of the policies' implicit rewards."""

from typing import Any

from diffalign.reporting import charts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any]:
    """Returns each trained policy's accuracy with its bar, the ceiling marked."""
    rows = report.results.implicit_reward
    return {
        "implicit": [
            {
                **row.model_dump(),
                "bar": charts.interval_bar(
                    row.accuracy, row.ci_low, row.ci_high, report.roles.style[row.policy], row.ceiling
                ),
            }
            for row in rows
        ],
        "ceiling": rows[0].ceiling if rows else None,
        "draws": report.settings.draws,
        "axis": charts.interval_axis(),
    }
