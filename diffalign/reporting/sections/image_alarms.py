"""The report's section on the alarms of evaluation: reward hacking, diversity, looks, copies of training images."""

from typing import Any

from diffalign.evaluation import alarm_words
from diffalign.evaluation.results import Alarm
from diffalign.reporting.material import Material

STYLE = {"raised": "failed", "quiet": "passed", "missing": "missing"}
"""The class of a verdict's mark on the page."""


def context(report: Material) -> dict[str, Any] | None:
    """Returns the raised alarms in words, and all that were held against a threshold; None where none was."""
    alarms = report.results.alarms
    if not alarms:
        return None
    return {
        "raised": [
            {"name": alarm.name, "policy": alarm.policy, "text": alarm_words.text(alarm)} for alarm in raised(report)
        ],
        "rows": [row(alarm) for alarm in alarms],
        "missing": sum(alarm.verdict == "missing" for alarm in alarms),
        "baseline": report.roles.baseline,
    }


def raised(report: Material) -> list[Alarm]:
    """Lists the alarms that were raised."""
    return [alarm for alarm in report.results.alarms if alarm.verdict == "raised" and alarm.figure is not None]


def row(alarm: Alarm) -> dict[str, Any]:
    """Returns an alarm's row, figures as text."""
    ends = [f"{end:.3g}" for end in (alarm.low, alarm.high) if end is not None]
    return {
        **alarm.model_dump(),
        "style": STYLE[alarm.verdict],
        "shown": "–" if alarm.figure is None else f"{alarm.figure:.3g}" + (f" ({' to '.join(ends)})" if ends else ""),
        "limit": f"{alarm.threshold:.3g}",
    }
