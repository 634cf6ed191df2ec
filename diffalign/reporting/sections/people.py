"""The report's section on people's votes: who won, how far raters agree, and whether they looked."""

from typing import Any

from diffalign.evaluation.people_results import Estimate, Model, People, Rate, Strength, WinRate
from diffalign.reporting import charts
from diffalign.reporting.format import percent
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any] | None:
    """Returns what the votes say; None where nobody voted."""
    people = report.people
    if people is None or not people.votes:
        return None
    return {
        "people": people,
        "questions": [
            {
                "question": question,
                "rows": [of_pair(report, row) for row in people.win_rates if row.question == question],
            }
            for question in dict.fromkeys(row.question for row in people.win_rates)
        ],
        "strengths": [of_strength(model, one) for model in people.strengths for one in model.strengths or ()],
        "trust": trust(people),
        "axis": charts.interval_axis(),
    }


def by_question(people: People) -> dict[str, list[WinRate]]:
    """Returns the win rates of each question."""
    found: dict[str, list[WinRate]] = {}
    for row in people.win_rates:
        found.setdefault(row.question, []).append(row)
    return found


def of_pair(report: Material, row: WinRate) -> dict[str, Any]:
    """Returns two policies' win rate with its bar."""
    bar = charts.interval_bar(row.win_rate, row.ci_low, row.ci_high, report.roles.style[row.policy])
    return {**row.model_dump(), "bar": bar}


def of_strength(model: Model, one: Strength) -> dict[str, str]:
    """Returns a policy's strength as text; the first one's is 0, and the measure of the others."""
    first = model.strengths is not None and one == model.strengths[0]
    return {"question": model.question, "policy": one.policy, "value": "0" if first else log_odds(one)}


def trust(people: People) -> list[dict[str, str]]:
    """Returns a row a question: agreement, what the sides did, and repeated pairs."""
    models = {model.question: model for model in people.strengths}
    sides = {side.question: side for side in people.sides}
    return [
        {
            "question": one.question,
            "alpha": "–" if one.alpha is None else f"{one.alpha:.2f}",
            "agree": percent(one.agree),
            "pairs": f"{one.pairs:,}",
            "left": of_rate(sides[one.question].left),
            "consistent": of_rate(sides[one.question].consistent),
            "position": log_odds(models[one.question].position),
        }
        for one in people.agreement
    ]


def of_rate(rate: Rate) -> str:
    """Returns a share with its interval."""
    if rate.rate is None:
        return "–"
    ends = "" if rate.ci_low is None else f" ({percent(rate.ci_low)[:-1]}–{percent(rate.ci_high)})"
    return f"{percent(rate.rate)}{ends}"


def log_odds(found: Estimate | None) -> str:
    """Returns log-odds with their interval; a dash where none fits."""
    return "–" if found is None else f"{found.value:+.2f} ({found.ci_low:+.2f} to {found.ci_high:+.2f})"
