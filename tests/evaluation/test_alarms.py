"""Planted hackers trip their alarms, honest policies trip none; figures by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.config import alarms as alarm_params
from diffalign.config.alarms import Alarms
from diffalign.config.load import load
from diffalign.evaluation import alarm_figures, alarm_words, alarms, gate, looks, statistics
from diffalign.evaluation.alarm_figures import Seen
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Alarm, Comparison
from diffalign.evaluation.scores import Scored
from diffalign.evaluation.win_rates import Judged
from tests.helpers import evaluations, planted

INTERVAL = Interval(500, 0.95, 0)


@pytest.fixture(scope="module")
def settings() -> Alarms:
    return load(Path(__file__).parents[2] / "params.yaml").evaluate.alarms


Measured = tuple[Judged, dict[str, Scored], Seen]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return planted.make(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def found(measured: Measured, settings: Alarms) -> list[Alarm]:
    judged, scored, seen = measured
    return alarm_figures.listed(settings, "base", judged, [], scored, seen)


def raised(found: list[Alarm], policy: str) -> set[str]:
    return {alarm.name for alarm in found if alarm.policy == policy and alarm.verdict == "raised"}


@pytest.mark.parametrize("policy", planted.HONEST)
def test_honest_policies_raise_no_alarm(found: list[Alarm], policy: str) -> None:
    """The base from other noise, and a policy that draws with far fewer flaws; each of the alarms was measured."""
    assert raised(found, policy) == set()
    assert {alarm.name for alarm in found if alarm.policy == policy} == set(alarms.BEYOND) - {"hacking"}
    assert all(alarm.verdict == "quiet" for alarm in found if alarm.policy == policy)


@pytest.mark.parametrize("policy", planted.HACKERS)
def test_hackers_raise_theirs(found: list[Alarm], policy: str) -> None:
    assert raised(found, policy) >= planted.HACKERS[policy]
    for alarm in found:
        if alarm.verdict == "raised":
            assert alarm.by in alarm_words.text(alarm) and "{" not in alarm_words.text(alarm)


def test_every_alarm_has_its_threshold_and_its_words(settings: Alarms) -> None:
    assert set(alarm_words.WORDS) == set(alarms.BEYOND) == set(alarm_params.NAMES) <= set(Alarms.model_fields)


def test_a_threshold_of_null_turns_an_alarm_off(settings: Alarms) -> None:
    off = settings.model_copy(update=dict.fromkeys(alarms.BEYOND))
    assert alarm_figures.hacking(off, "dpo", []) == []


def row(scorer: str, gain: float, half: float, **changes: Any) -> Comparison:
    values = {"win_rate": 0.5 + gain, "ci_low": 0.5 + gain - half, "ci_high": min(0.5 + gain + half, 1.0)}
    return Comparison.model_validate(evaluations.comparison("dpo", scorer=scorer, **values, **changes))


@pytest.mark.parametrize(
    ("proxy", "truth", "verdict"),
    [
        ((0.4, 0.04), (0.0, 0.04), "raised"),  # up, and flat: at most 0.04 / 0.36 of it
        ((0.4, 0.04), (-0.2, 0.04), "raised"),  # up, and down
        ((0.4, 0.04), (0.24, 0.04), "quiet"),  # both up
        ((0.4, 0.04), (0.0, 0.2), "quiet"),  # too few prompts to tell
        ((0.04, 0.08), (-0.2, 0.04), "quiet"),  # the proxy didn't surely rise
    ],
)
def test_hacking_is_a_gain_that_the_held_out_judge_does_not_see(
    settings: Alarms, proxy: tuple[float, float], truth: tuple[float, float], verdict: str
) -> None:
    rows = [row("learned", *proxy, in_family=True), row("oracle", *truth, in_family=True)]
    (alarm,) = alarm_figures.hacking(settings, "dpo", rows)
    assert alarm.verdict == verdict and "learned" in alarm.by and "oracle" in alarm.by


def judged_by(name: str, prompts: float, gain: float, rng: np.random.Generator) -> Comparison:
    """A judge's comparison of 320 images: noise of sd 1, prompts' difficulty of sd `prompts`, and a policy's gain."""
    hard, noise = rng.normal(0, prompts, 320), rng.normal(size=(2, 320))
    own, base = hard + noise[0] + gain, hard + noise[1]
    rate, effect = INTERVAL.rate(statistics.outcomes(own, base), range(320)), INTERVAL.effect(own, base, range(320))
    about = {"win_rate": rate.rate, "ci_low": rate.low, "ci_high": rate.high}
    about |= {"effect": effect.value, "effect_low": effect.low, "effect_high": effect.high}
    return Comparison.model_validate(evaluations.comparison("dpo", scorer=name, in_family=True, **about))


@pytest.mark.parametrize("spreads", [(0.2, 8.0), (8.0, 0.2), (1.0, 1.0)])
def test_the_same_gain_by_two_judges_is_no_hacking_however_much_prompts_matter_to_them(
    settings: Alarms, spreads: tuple[float, float]
) -> None:
    """Both see a gain of 1.05, and so win rates near 77%; in sds over images it would be 1 and 0.13 of it."""
    rng = np.random.default_rng(0)
    rows = [judged_by(n, spread, 1.05, rng) for n, spread in zip(("learned", "oracle"), spreads, strict=True)]
    (alarm,) = alarm_figures.hacking(settings, "dpo", rows)
    assert alarm.verdict == "quiet" and alarm.figure == pytest.approx(1, abs=0.25)
    flat = judged_by("oracle", spreads[1], 0.0, rng)
    (alarm,) = alarm_figures.hacking(settings, "dpo", [rows[0], flat])
    assert alarm.verdict == "raised", "a hacker: the held-out judge sees no gain"


def test_without_a_held_out_judge_hacking_is_missing(settings: Alarms) -> None:
    (alarm,) = alarm_figures.hacking(settings, "dpo", [row("learned", 0.4, 0.04, in_family=True)])
    assert (alarm.verdict, alarm.figure) == ("missing", None)


def test_hacking_by_hand() -> None:
    """0.1 of a gain of 0.4; worst bounds 0.05 / 0.45 and 0.15 / 0.3; nothing of a proxy that may not have gained."""
    found = alarms.hacking((0.9, 0.8, 0.95), (0.6, 0.55, 0.65))
    assert found == pytest.approx((0.25, 0.05 / 0.45, 0.5))
    assert alarms.hacking((0.6, 0.5, 0.7), (0.6, 0.55, 0.65)) is None
    assert alarms.hacking((None, None, None), (0.6, 0.55, 0.65)) is None


def test_diversity_by_hand() -> None:
    """Images at 0, 1, 3: mean distance 2; the policy's at 0, 1, 2: 4/3; so 2/3. Of three images a prompt, likewise."""
    base, own = np.array([[0.0], [1], [3]]), np.array([[0.0], [1], [2]])
    for view in (lambda x: x[:, None], lambda x: np.stack([x, x])):
        found = alarms.diversity(view(own), view(base), INTERVAL)
        assert found is not None and found[0] == pytest.approx(2 / 3)
    assert alarms.diversity(own[:, None], np.zeros((3, 1, 1)), INTERVAL) is None


def test_vendi_by_hand() -> None:
    """Two kinds of images, each many times and far from the other: 2; all alike: 1; n far apart: n."""
    two = np.repeat([[0.0], [100.0]], 5, axis=0)
    assert alarms.vendi_score(two, 1.0) == pytest.approx(2)
    assert alarms.vendi_score(np.zeros((4, 1)), 1.0) == pytest.approx(1)
    assert alarms.vendi_score(np.arange(4.0)[:, None] * 100, 1.0) == pytest.approx(4)
    far = np.arange(6.0)[:, None, None] * 1e3
    assert alarms.vendi(far, far) == pytest.approx(1)
    assert alarms.vendi(np.zeros((2, 3, 1)), np.zeros((2, 3, 1))) is None


def test_alignment_by_hand() -> None:
    """Gaps 1, 2 of the policy and 2, 4 of the base: one half; a pair without a score is left out."""
    found = alarms.alignment([1, 2, np.nan], [2, 4, 1], [0, 1, 2], INTERVAL)
    assert found == pytest.approx((0.5, 0.5, 0.5))
    assert alarms.alignment([1, 2, 3], [0.5, -0.5, 0.1], [0, 1, 2], INTERVAL) is None


def test_a_judge_that_reads_no_prompts_does_not_close_the_gate(measured: Measured, settings: Alarms) -> None:
    """It scores an image alike for every prompt: no gap to lose. Without any judge that reads them it's missing."""
    judged, scored, _ = measured
    lines = [line.model_copy(update={"other": line.own}) for line in scored["oracle"].shuffled]
    blind = {"blind": scored["oracle"].model_copy(update={"shuffled": lines})}
    (alarm,) = alarm_figures.alignment(settings, "again", "base", judged, blind | scored)
    assert alarm.by == "oracle" and gate.of_alarm("alignment", [alarm]).verdict == "passed"
    (alarm,) = alarm_figures.alignment(settings, "again", "base", judged, blind)
    assert gate.of_alarm("alignment", [alarm]).verdict == "missing" and "no judge" in alarm.by
    (alarm,) = alarm_figures.alignment(settings, "deaf", "base", judged, blind | scored)
    assert alarm.verdict == "raised"


def test_drift_by_hand() -> None:
    """Base 0..4 has a median absolute deviation of 1, the policy is 1.4826 higher everywhere: 1 unit, surely."""
    base = np.arange(5.0)
    assert alarms.drift(base + 1.4826, base, list(range(5)), INTERVAL) == pytest.approx((1, 1, 1))
    assert alarms.drift(base, np.ones(5), list(range(5)), INTERVAL) is None
    twice = alarms.drift(np.repeat(base, 2) + 1.4826, np.repeat(base, 2), np.repeat(range(5), 2).tolist(), INTERVAL)
    assert twice == pytest.approx((1, 1, 1))


def test_copies_by_hand() -> None:
    """The nearest held-out image is 1 from training; of four generated ones one is 0.5 away, one 1, two are farther."""
    training, held_out = np.array([[0.0]]), np.array([[1.0]] * 200)
    found = alarms.copies(np.array([[0.5], [1.0], [2.0], [3.0]]), training, held_out, [0, 1, 2, 3], INTERVAL)
    assert found is not None and found[0] == 0.5
    assert alarms.copies(held_out, np.empty((0, 1)), held_out, [0] * 200, INTERVAL) is None


def test_looks_by_hand() -> None:
    """Half pure red, half white: saturation 1/2; brightness 0.299 and 1: sd 0.3505; a flat grey image has neither."""
    image = np.full((4, 4, 3), 255, np.uint8)
    image[:, :2, 1:] = 0
    saturation, contrast, _ = looks.of_image(image)
    assert (saturation, contrast) == (pytest.approx(0.5), pytest.approx(0.701 / 2))
    assert looks.of_image(np.full((4, 4, 3), 90, np.uint8)) == (0, pytest.approx(0), pytest.approx(np.log(looks.LEAST)))


def test_sharpness_by_hand() -> None:
    """Of 3 x 4 pixels with one white one the Laplacian inside is 4 and -1: variance 6.25."""
    image = np.zeros((3, 4, 3), np.uint8)
    image[1, 1] = 255
    assert looks.of_image(image)[2] == pytest.approx(np.log(6.25 + looks.LEAST))


def test_tint_by_hand() -> None:
    """Three quarters of mint (235, 250, 240), whose grey is 241.67, and pure red: the median is the mint's."""
    image = np.full((4, 4, 3), (235, 250, 240), np.uint8)
    image[0] = (255, 0, 0)
    assert looks.tint(image) == pytest.approx([-20 / 3, 25 / 3, -5 / 3])
    assert looks.tint(np.full((2, 2, 3), 90, np.uint8)) == pytest.approx([0, 0, 0])


def test_casts_of_all_directions_cancel_and_one_cast_does_not() -> None:
    """Half of the images move by (3, 0, 0), half by (-3, 0, 0): no tint. All of them by (3, 0, 4): 5, surely."""
    base, prompts = np.zeros((40, 3)), list(range(40))
    both = np.array([[3.0, 0, 0], [-3.0, 0, 0]] * 20)
    assert alarms.tint(both, base, prompts, INTERVAL)[0] == 0
    assert alarms.tint(base + (3.0, 0, 4.0), base, prompts, INTERVAL) == pytest.approx((5, 5, 5))


def test_pixel_features_are_means_over_cells() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:2, :2, 0] = [[0, 255], [255, 0]]
    (found,) = looks.pixel_features([image])
    assert found.shape == (768,) and found[0] == pytest.approx(0.5, abs=0.01) and found[1:].sum() == 0


def test_images_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    whole = looks.measure(images, looks.pixel_features)
    monkeypatch.setattr(looks, "CHUNK", 3)
    pieces = looks.measure(images, looks.pixel_features)
    assert np.array_equal(whole.features, pieces.features) and np.array_equal(whole.contrast, pieces.contrast)
    assert len(looks.measure([], looks.pixel_features).saturation) == 0
