"""The figures that `dvc metrics show` shows: by the first judge, what wasn't measured left out."""

from diffalign.evaluation import summary_figures
from diffalign.evaluation.results import Evaluation
from diffalign.evaluation.verdicts import PolicyRulings, Verdict, Verdicts
from tests.helpers import evaluations

VERDICTS: list[tuple[str, Verdict]] = [("dpo", "passed"), ("other", "missing")]
ALARM = {"by": "pixels", "figure": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.8}


def test_a_handful_of_figures_a_policy() -> None:
    rows = [
        evaluations.comparison("dpo", scorer="learned", win_rate=0.7, ci_low=0.6, ci_high=0.8),
        evaluations.comparison("dpo", set="test"),
        evaluations.comparison("dpo", set="parti", win_rate=0.4, ci_low=0.3, ci_high=0.5),
    ]
    accuracy = {"policy": "dpo", "accuracy": 0.66, "ci_low": 0.62, "ci_high": 0.7, "pairs": 420, "ceiling": None}
    alarms = [{**ALARM, "name": name, "policy": "dpo", "verdict": "raised"} for name in ("vendi", "contrast")]
    alarms.append({**ALARM, "name": "copies", "policy": "dpo", "verdict": "quiet"})
    found = Evaluation.model_validate(
        evaluations.evaluation(comparisons=rows, implicit_reward=[accuracy], alarms=alarms)
    )
    ruled = [PolicyRulings(policy=name, verdict=verdict, rulings=[]) for name, verdict in VERDICTS]
    verdicts = Verdicts(schema=1, baseline="base", policies=ruled)
    assert summary_figures.figures(found, verdicts, ["oracle", "learned"], {"dpo": ["winner_worse"]}) == {
        "dpo": {
            "win_rate": 0.8875,
            "win_rate_low": 0.85,
            "win_rate_high": 0.92,
            "implicit_accuracy": 0.66,
            "alarms": 3,
            "gate_passed": True,
        },
        "other": {"alarms": 0, "gate_passed": False},
    }
    unjudged = summary_figures.figures(found, verdicts, [], {})
    assert "win_rate" not in unjudged["dpo"] and unjudged["dpo"]["alarms"] == 2
