"""Figures of policies as single numbers, and which figures of a curve MLflow plots."""

import pytest

from diffalign.evaluation.results import Evaluation
from diffalign.tracking import artifacts, outcomes
from diffalign.tracking.artifacts import Point
from tests.helpers import evaluations


def test_a_policys_figures_are_the_first_judges_and_its_own_accuracy() -> None:
    """Another judge's and another set's win rates have names of their own; another policy's aren't taken."""
    found = Evaluation.model_validate(
        evaluations.evaluation(
            comparisons=[
                evaluations.comparison("sft") | {"win_rate": 0.1},
                evaluations.comparison("dpo"),
                evaluations.comparison("dpo") | {"scorer": "learned", "win_rate": 0.7},
                evaluations.comparison("dpo") | {"scorer": "learned", "set": "parti", "win_rate": None},
                evaluations.comparison("dpo") | {"set": "parti", "win_rate": 0.6},
            ],
            implicit_reward=[
                {"policy": "dpo", "accuracy": 0.66, "ci_low": None, "ci_high": None, "pairs": 420, "ceiling": 0.76}
            ],
        )
    )
    first = found.comparisons[1]
    assert outcomes.of_policy(found, None, "dpo") == pytest.approx(
        {
            "win_rate": first.win_rate,
            "win_rate_low": first.ci_low,
            "win_rate/learned": 0.7,
            f"win_rate/{first.scorer}/parti": 0.6,
            "accuracy": 0.66,
        }
    )
    assert outcomes.of_policy(found, None, "base") == {}


def test_four_figures_of_a_curve_are_plotted_and_scores_of_probes() -> None:
    """Of some thirty; an own reward's validation stands beside the policies' probes."""
    keys = ["loss", "lr", "grad_norm", "probe/accuracy", "probe/accuracy_low", "probe/t1/winner_relative"]
    keys += ["probe/winner_relative", "probe/loser_relative", "probe/score_oracle/v1", "validation/accuracy"]
    rolled = ["reward_oracle", "reward_std", "clip_share", "kl", "dropped", "constant"]
    assert [artifacts.plotted(key) for key in [*rolled, "ratio_away"]] == [*rolled, None]
    assert [point.key for point in artifacts.shown([Point(key, 1.0, 5) for key in keys])] == [
        "loss", "probe/accuracy", "probe/winner_relative", "probe/loser_relative", "probe/score_oracle",
        "probe/accuracy",
    ]  # fmt: skip
