"""The gate: bounds decide, not figures; what wasn't measured is missing and not passed; alarms close it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from diffalign.config import gate as gate_params
from diffalign.config.gate import Condition
from diffalign.config.load import load, parse
from diffalign.core import yaml_file
from diffalign.evaluation import alarm_figures, alarms, gate, verdicts
from diffalign.evaluation.audits.findings import Audit, Estimated
from diffalign.evaluation.people_results import People
from diffalign.evaluation.results import Alarm, Comparison, Evaluation
from tests.helpers import audits, evaluations

NAMES = {"win_rate", "votes", "alarms", "training_alarms", "flagged", "shift", "rater_gap"}


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
    audit = Audit(schema=1, safety=[], shifts=[], composition=[], ungrouped=[])
    return gate.Figures("base", found, audit, alarms or {}, People.model_validate(audits.people()))


def verdict(asked: dict[str, Any], found: gate.Figures, policy: str = "dpo") -> str:
    (ruling,) = gate.rule(condition(**asked), policy, found)
    return ruling.verdict


def test_every_figure_of_params_has_its_function() -> None:
    assert set(gate.CONDITIONS) == NAMES
    assert (gate.HELD_OUT, gate.ALL) == (gate_params.HELD_OUT, gate_params.ALL)
    for figure in NAMES:  # pydantic refuses the unknown ones
        TypeAdapter(Condition).json_schema()["discriminator"]["mapping"][figure]


@pytest.mark.parametrize(("low", "expected"), [(0.51, "passed"), (0.5, "failed"), (0.45, "failed"), (None, "missing")])
def test_the_lower_bound_decides(low: float | None, expected: str) -> None:
    """A rate of 0.55 whose interval begins at 0.45 doesn't pass a gate at 0.5."""
    asked = {"figure": "win_rate", "judge": "oracle", "set": "all", "above": 0.5}
    assert verdict(asked, figures(comparison(low=low))) == expected


def test_a_judge_who_did_not_judge_is_missing() -> None:
    asked = {"figure": "win_rate", "judge": "pickscore", "set": "all", "above": 0.5}
    assert verdict(asked, figures(comparison())) == "missing"
    assert verdict(asked, figures(comparison(scorer="pickscore")), policy="sft") == "missing"


@pytest.mark.parametrize(("above", "expected"), [(0.55, "passed"), (0.6, "failed")])
def test_peoples_votes_may_be_asked_for(above: float, expected: str) -> None:
    """70.8% [60, 80] overall; nobody was asked about appeal, or voted on sft, and programs don't count."""
    asked = {"figure": "votes", "question": "overall", "above": above}
    assert verdict(asked, figures()) == expected
    assert verdict(asked, figures(), policy="sft") == "missing"
    assert verdict({**asked, "question": "appeal"}, figures()) == "missing"
    programs = People.model_validate(audits.people(simulated=True))
    assert verdict(asked, replace(figures(), people=programs)) == "missing"


def test_held_out_judges_are_those_of_other_families_and_each_counts() -> None:
    rows = [comparison(low=0.6), comparison(scorer="brisque", low=0.4), comparison(scorer="hpsv2", low=0.6)]
    rows = [row.model_copy(update={"in_family": row.scorer == "oracle"}) for row in rows]
    asked = condition(figure="win_rate", judge="held_out", set="all", above=0.5)
    found = gate.rule(asked, "dpo", figures(*rows))
    assert [one.verdict for one in found] == ["failed", "passed"]
    (alone,) = gate.rule(asked, "dpo", figures(rows[0]))
    assert alone.verdict == "missing" and "another family" in alone.note


def test_a_set_may_be_named() -> None:
    rows = [comparison(low=0.6), comparison(low=0.3).model_copy(update={"set": "parti"})]
    asked = [condition(figure="win_rate", judge="oracle", set=name, above=0.5) for name in ("test", "parti", "hpsv2")]
    verdicts_of = [gate.rule(one, "dpo", figures(*rows))[0].verdict for one in asked]
    assert verdicts_of == ["passed", "failed", "missing"]


def test_the_worst_of_an_alarms_verdicts_counts_and_off_is_missing() -> None:
    def alarm(name: str, verdict: str, by: str = "pixels") -> Alarm:
        figure = {"figure": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.7}
        return Alarm.model_validate({"name": name, "policy": "dpo", "by": by, "verdict": verdict, **figure})

    found = [alarm("hacking", "quiet", "a"), alarm("hacking", "raised", "b"), alarm("vendi", "missing")]
    found += [alarm("copies", "missing", "blind")]
    evaluation = Evaluation.model_validate(evaluations.evaluation(alarms=[*found, alarm("copies", "quiet")]))
    asked = condition(figure="alarms", quiet=["hacking", "vendi", "copies", "contrast"])
    rulings = gate.rule(asked, "dpo", replace(figures(), evaluation=evaluation))
    assert [one.verdict for one in rulings] == ["failed", "missing", "passed", "missing"]
    assert rulings[0].note == "b" and "off" in rulings[3].note


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_preset_with_the_judges_that_it_asks_for_can_pass(repo: Path, name: str) -> None:
    """Its comments name them; without any judge the same policy's gate stays shut."""
    raw = yaml_file.read(repo / f"presets/{name}.yaml")
    weights = {"batch_size": 1, "sha256": None}
    raw["rewards"] = {judge: {"path": f"models/rewards/{judge}", **weights} for judge in ("pickscore", "hpsv2_1")}
    raw["evaluate"]["alarms"]["held_out"] = ["hpsv2_1"]
    values = parse(raw)
    rows = [comparison(scorer="pickscore").model_copy(update={"in_family": True}), comparison(scorer="hpsv2_1")]
    found = alarm_figures.hacking(values.evaluate.alarms, "dpo", rows)
    quiet = set(alarms.BEYOND) - {"hacking"}
    found += [alarm_figures.quiet(one, "dpo", "", getattr(values.evaluate.alarms, one)) for one in quiet]
    results = Evaluation.model_validate(evaluations.evaluation(comparisons=rows, alarms=found))
    (passed,) = gate.judge(
        values.gate.conditions, ["dpo"], replace(figures(alarms={"dpo": []}), evaluation=results)
    ).policies
    assert passed.verdict == "passed", passed.rulings
    assert "[hpsv2_1]" in (repo / f"presets/{name}.yaml").read_text(), "its comment says so"
    without = alarm_figures.hacking(load(repo / f"presets/{name}.yaml").evaluate.alarms, "dpo", rows)
    assert gate.of_alarm("hacking", without).verdict == "missing" and "held_out" in without[0].by


def test_alarms_close_the_gate_unless_allowed() -> None:
    asked = {"figure": "training_alarms", "allowed": ["saturation"]}
    found = figures(alarms={"quiet": [], "loud": ["saturation", "divergence"], "tolerated": ["saturation"]})
    expected = {"quiet": "passed", "loud": "failed", "tolerated": "passed", "unprobed": "missing"}
    assert {name: verdict(asked, found, name) for name in expected} == expected


def test_upper_bounds_decide_about_what_must_not_rise() -> None:
    """A rise of 1 point that may be 4 doesn't pass a gate at 2; each set is a condition of its own."""
    found = [
        ("test", Estimated(value=0.01, low=-0.02, high=0.04)),
        ("parti", Estimated(value=0.0, low=-0.01, high=0.01)),
    ]
    rulings = gate.estimates("rise", found, "no filter", 0.02)
    assert [(r.name, r.verdict) for r in rulings] == [("rise (test)", "failed"), ("rise (parti)", "passed")]
    (absent,) = gate.estimates("rise", [], "no filter", 0.02)
    unknown = gate.estimates("rise", [("", Estimated(value=None, low=None, high=None))], "", 0.02)[0]
    assert (absent.verdict, absent.note, unknown.verdict) == ("missing", "no filter", "missing")


@pytest.mark.parametrize(
    "asked",
    [
        {"figure": "flagged", "filter": "nsfw", "at_most": 0.01},
        {"figure": "shift", "attribute": "size", "at_most": 0.1},
        {"figure": "rater_gap", "at_most": 0.1},
    ],
)
def test_what_was_not_audited_is_missing(asked: dict[str, Any]) -> None:
    assert verdict(asked, figures()) == "missing"


def test_all_conditions_must_pass_and_missing_is_not_passed() -> None:
    """The baseline isn't judged; a policy fails by one condition, and isn't passed where one is missing."""
    asked = [
        condition(figure="win_rate", judge="oracle", set="all", above=0.5),
        condition(figure="training_alarms", allowed=[]),
    ]
    rows = [comparison("good"), comparison("worse", low=0.4), comparison("unprobed")]
    found = gate.judge(asked, ["base", "good", "worse", "unprobed"], figures(*rows, alarms={"good": [], "worse": []}))
    assert {one.policy: one.verdict for one in found.policies} == {
        "good": "passed",
        "worse": "failed",
        "unprobed": "missing",
    }
    assert verdicts.table(found.policies[0]).splitlines()[0] == "good: passed"
    assert verdicts.overall([]) == "missing"
