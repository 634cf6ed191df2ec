"""The report's section on who judged: how far each judge agrees with raters, what it learnt from, its range."""

from typing import Any

from diffalign.evaluation.results import JudgeAccuracy
from diffalign.reporting import charts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns the judges; None where there is none."""
    judges = report.results.rewards
    return {"judges": [row(judge) for judge in judges], "axis": charts.interval_axis()} if judges else None


def row(judge: JudgeAccuracy) -> dict[str, Any]:
    """Returns a judge with its bar, its range and tie band as text."""
    return {
        **judge.model_dump(),
        "bar": charts.interval_bar(judge.accuracy, judge.ci_low, judge.ci_high),
        "span": span(*judge.range),
        "band": f"scores within {judge.tie_band:.2g} tie" if judge.tie_band else "only equal scores tie",
    }


def span(low: float | None, high: float | None) -> str:
    """Returns a range in words; None is no bound."""
    if low is None:
        return "no bounds" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
