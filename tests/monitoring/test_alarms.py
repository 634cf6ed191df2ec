"""Alarms from histories of probes, by hand."""

from dataclasses import asdict
from typing import Any

import pytest
from scipy.special import ndtri

from diffalign.config import probe
from diffalign.config.probe import Probe
from diffalign.monitoring import alarm_words, alarms
from diffalign.monitoring.curve import Point

LIMITS = {"winner_worse": 0.4, "saturation": 0.02, "divergence": 5.0, "reference_changed": 0.001}


def point(step: int, **figures: float) -> Point:
    quiet = {"winner_relative": 0.1, "winner_relative_se": 0.01, "loser_relative": 0.1, "margin": 0.001}
    return {"step": step, "broken": 0.0, "saturated": 0.0, "reference_drift": 0.0, **quiet, **figures}


def test_every_alarm_has_a_threshold_in_params_and_a_text() -> None:
    assert set(alarms.ALARMS) == set(probe.ALARMS) <= set(Probe.model_fields)
    assert set(alarms.ALARMS) == set(alarm_words.WORDS)


def test_a_good_run_raises_none() -> None:
    history = [point(50 * n, winner_relative=0.05 * n) for n in range(1, 5)]
    assert alarms.listed(history, LIMITS) == []
    assert alarms.news(history, LIMITS) == []


@pytest.mark.parametrize(
    ("name", "figures", "value"),
    [
        ("winner_worse", {"winner_relative": 0.5, "winner_relative_se": 0.05}, 0.5 - 1.6448536 * 0.05),
        ("saturation", {"saturated": 0.05}, 0.05),
        ("divergence", {"winner_relative": 0.2, "loser_relative": 12.0}, 6.1),
        ("reference_changed", {"reference_drift": 0.002}, 0.002),
    ],
)
def test_each_alarm(name: str, figures: dict[str, float], value: float) -> None:
    history = [point(50), point(100, **figures), point(150)]
    (alarm,) = alarms.listed(history, LIMITS)
    assert (alarm.name, alarm.step, alarm.last, alarm.threshold) == (name, 100, 100, LIMITS[name])
    assert alarm.value == pytest.approx(value)
    assert alarm.explanation == alarms.explained(name, alarm.value, LIMITS[name])
    assert alarms.raised(history[1], LIMITS | {name: None}) == {}
    assert alarms.raised(history[1], LIMITS | {name: 100.0}) == {}


def test_a_rise_within_its_error_is_no_alarm() -> None:
    """0.45 with a standard error of 0.05: the bound is 0.368, under 0.4. One prompt alone has no error to go by."""
    assert alarms.raised(point(1, winner_relative=0.45, winner_relative_se=0.05), LIMITS) == {}
    alone = {k: v for k, v in point(1, winner_relative=3.0).items() if k != "winner_relative_se"}
    assert alarms.raised(alone, LIMITS) == {}


def test_no_number_is_divergence() -> None:
    assert alarms.raised({"step": 1, "broken": 0.5}, LIMITS) == {"divergence": alarms.LOUD}
    assert "no number" in alarms.explained("divergence", alarms.LOUD, 5.0)


def test_an_alarm_is_said_when_it_begins_and_when_it_is_twice_as_bad() -> None:
    drifts = [0.0, 0.002, 0.003, 0.004, 0.005, 0.0, 0.002]
    history = [point(n + 1, reference_drift=drift) for n, drift in enumerate(drifts)]
    said = [alarms.news(history[: n + 1], LIMITS) for n in range(len(history))]
    assert [len(lines) for lines in said] == [0, 1, 0, 1, 0, 0, 1]
    assert said[1][0].startswith("reference_changed: the reference's errors")
    assert said[3][0].startswith("reference_changed, much worse than when it was said: ")
    (alarm,) = alarms.listed(history, LIMITS)
    assert (alarm.step, alarm.last, alarm.value) == (2, 7, 0.005)


def bad(step: int, **figures: float) -> Point:
    return point(step, winner_relative_se=0.0, **{"winner_relative": 0.9, **figures})


@pytest.mark.parametrize(
    ("history", "step", "why"),
    [
        ([point(1, margin=0.1), point(2, margin=0.3), point(3, margin=0.2)], 2, "the largest margin, 0.3, of 3 probes"),
        ([point(1, margin=0.1), bad(2, margin=0.9)], 1, "the largest margin, 0.1, of 1 probes without an alarm, of 2"),
        ([bad(1, winner_relative=0.8), bad(2, winner_relative=0.6), bad(3)], 3, "none of 3 probes"),
        ([bad(1), {"step": 2, "broken": 1.0}], 1, "none of 2 probes"),
    ],
)
def test_the_best_probe(history: list[Any], step: int, why: str) -> None:
    found = alarms.best(history, LIMITS)
    assert found[0] == step
    assert found[1].startswith(why)


def test_there_is_no_best_of_none() -> None:
    with pytest.raises(ValueError, match="at least one probe"):
        alarms.best([], LIMITS)


def test_what_is_kept_of_an_alarm_has_no_words() -> None:
    """policy.json is a training's out; its text must not change with a word."""
    (alarm,) = alarms.listed([point(1, reference_drift=0.002)], LIMITS)
    assert set(asdict(alarm)) == {"name", "step", "last", "value", "threshold"}


def test_the_bound_is_the_normal_distributions() -> None:
    assert alarms.ONE_SIDED == ndtri(0.95)


def own(step: int, **figures: float) -> Point:
    """A probe of a policy that learns from its own pictures."""
    seen = {"reward": 0.1 * step, "reward_std": 0.2, "judge": 0.5, "judge_std": 0.1}
    return point(step, **{**seen, **figures})


def test_a_reward_that_rises_while_the_judge_falls_is_an_alarm() -> None:
    """0.6 is the judge's best; 0.05 under it is half a standard deviation of the first probe's, 0.1."""
    history = [own(1), own(2, judge=0.6, judge_std=7.0)]
    assert alarms.of_rollouts(history, own(3, judge=0.55))["judge_fall"] == pytest.approx(0.5)
    assert alarms.of_rollouts(history, own(3, judge=0.55, reward=0.1))["judge_fall"] == 0, "the reward fell, too"
    assert alarms.of_rollouts(history, own(3, judge=0.7))["judge_fall"] == 0
    assert alarms.raised(own(3, judge_fall=0.6), {"judge_falls": 0.5}) == {"judge_falls": 0.6}


def test_without_a_judge_its_alarm_isnt_due() -> None:
    assert alarms.due(own(1)) == list(alarms.ALARMS)
    alone = {name: value for name, value in own(1).items() if name != "judge"}
    assert set(alarms.ALARMS) - set(alarms.due(alone)) == {"judge_falls"}
    assert alarms.due(point(1)) == list(alarms.OF_ALL)


def test_a_spread_that_has_gone_is_an_alarm() -> None:
    """From 0.2 to 0.01 the rewards' spread has lost 95%."""
    assert alarms.of_rollouts([own(1)], own(2, reward_std=0.01))["spread_lost"] == pytest.approx(0.95)
    assert alarms.of_rollouts([], own(1))["spread_lost"] == 0
    assert alarms.of_rollouts([point(1)], point(2)) == {}


def test_winners_of_others_are_no_alarm_for_a_policy_that_learns_from_its_own_pictures() -> None:
    assert alarms.raised(own(1, winner_relative=3.0), LIMITS) == {}


def test_the_judge_chooses_among_probes_without_an_alarm() -> None:
    history = [own(1), own(2, judge=0.6, margin=-1.0), own(3, judge=0.7, clip_share=0.95)]
    step, why = alarms.best(history, LIMITS | {"clip_share": 0.9})
    assert (step, why) == (2, "the judge's highest score, 0.6, of 2 probes without an alarm, of 3 in all")


def test_without_the_judges_scores_the_last_probe_is_chosen_and_no_margin() -> None:
    history = [{name: value for name, value in own(n, margin=1.0 - n).items() if name != "judge"} for n in (1, 2)]
    assert alarms.best(history, LIMITS) == (2, "none of 2 probes was scored by the judge; this is the last")
