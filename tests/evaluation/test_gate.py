"""The gate: bounds decide, not figures; what wasn't measured is missing and not passed; alarms close it."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from diffalign.config.gate import Condition
from diffalign.evaluation import gate, verdicts
from diffalign.evaluation.results import Comparison, Evaluation
from tests.helpers import evaluations

NAMES = {"win_rate", "training_alarms"}


def condition(**values: Any) -> Any:
    return TypeAdapter(Condition).validate_python(values)


def comparison(policy: str = "dpo", scorer: str = "oracle", low: float | None = 0.6) -> Comparison:
    rate = None if low is None else low + 0.1
    high = None if low is None else low + 0.2
    counts = {"prompts": 10, "seeds": 1, "wins": 7, "ties": 0, "losses": 3}
    bounds = {"win_rate": rate, "ci_low": low, "ci_high": high}
    return Comparison.model_validate(evaluations.comparison(policy, scorer=scorer, **counts, **bounds))


def figures(*rows: Comparison, alarms: dict[str, list[str]] | None = None) -> gate.Figures:
    found = Evaluation.model_validate(evaluations.evaluation(comparisons=list(rows)))
    return gate.Figures(found, alarms or {})


def verdict(asked: dict[str, Any], found: gate.Figures, policy: str = "dpo") -> str:
    (ruling,) = gate.rule(condition(**asked), policy, found)
    return ruling.verdict


def test_every_figure_of_params_has_its_function() -> None:
    assert set(gate.CONDITIONS) == NAMES
    for figure in NAMES:  # pydantic refuses the unknown ones
        TypeAdapter(Condition).json_schema()["discriminator"]["mapping"][figure]


@pytest.mark.parametrize(("low", "expected"), [(0.51, "passed"), (0.5, "failed"), (0.45, "failed"), (None, "missing")])
def test_the_lower_bound_decides(low: float | None, expected: str) -> None:
    """A rate of 0.55 whose interval begins at 0.45 doesn't pass a gate at 0.5."""
    asked = {"figure": "win_rate", "judge": "oracle", "above": 0.5}
    assert verdict(asked, figures(comparison(low=low))) == expected


def test_a_judge_who_did_not_judge_is_missing() -> None:
    asked = {"figure": "win_rate", "judge": "pickscore", "above": 0.5}
    assert verdict(asked, figures(comparison())) == "missing"
    assert verdict(asked, figures(comparison(scorer="pickscore")), policy="sft") == "missing"


def test_alarms_close_the_gate_unless_allowed() -> None:
    asked = {"figure": "training_alarms", "allowed": ["saturation"]}
    found = figures(alarms={"quiet": [], "loud": ["saturation", "divergence"], "tolerated": ["saturation"]})
    expected = {"quiet": "passed", "loud": "failed", "tolerated": "passed", "unprobed": "missing"}
    assert {name: verdict(asked, found, name) for name in expected} == expected


def test_all_conditions_must_pass_and_missing_is_not_passed() -> None:
    """The baseline isn't judged; a policy fails by one condition, and isn't passed where one is missing."""
    asked = [
        condition(figure="win_rate", judge="oracle", above=0.5),
        condition(figure="training_alarms", allowed=[]),
    ]
    rows = [comparison("good"), comparison("worse", low=0.4), comparison("unprobed")]
    found = gate.judge(
        asked, ["base", "good", "worse", "unprobed"], "base", figures(*rows, alarms={"good": [], "worse": []})
    )
    assert {one.policy: one.verdict for one in found.policies} == {
        "good": "passed",
        "worse": "failed",
        "unprobed": "missing",
    }
    assert verdicts.table(found.policies[0]).splitlines()[0] == "good: passed"
    assert verdicts.overall([]) == "missing"
