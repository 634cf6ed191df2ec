"""The report's section on skills: how often each policy's images answer a judge's questions right, skill by skill."""

from typing import Any

from diffalign.evaluation.results import Skill
from diffalign.reporting import charts
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns the bars of each judge's skills; None where no judge asks questions."""
    rows = report.results.skills
    judges = list(dict.fromkeys(row.scorer for row in rows))
    if not judges:
        return None
    found = [{"judge": judge, "skills": of_judge(report, [r for r in rows if r.scorer == judge])} for judge in judges]
    return {"judges": found, "axis": charts.interval_axis()}


def of_judge(report: Material, rows: list[Skill]) -> list[dict[str, Any]]:
    """Returns a judge's skills, each with a bar for every policy."""
    return [
        {"skill": skill, "rows": [bar(report, row) for row in rows if row.skill == skill]}
        for skill in dict.fromkeys(row.skill for row in rows)
    ]


def bar(report: Material, row: Skill) -> dict[str, Any]:
    """Returns a policy's share of one skill, with its bar."""
    svg = charts.interval_bar(row.share, row.ci_low, row.ci_high, report.roles.style[row.policy], half=False)
    return {**row.model_dump(), "bar": svg}
