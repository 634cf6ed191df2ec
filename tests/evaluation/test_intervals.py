"""Evaluation's intervals: as often right as they say, BCa only where it pays, effect sizes by hand."""

import numpy as np
import pytest

from diffalign.evaluation import statistics
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.significance import sign_flip_p

INTERVAL = Interval(1000, 0.95, 0)


def of_no_difference(rng: np.random.Generator, prompts: int, images: int, band: float) -> np.ndarray:
    """Outcomes of one model against itself from other noise: scores share what is hard about a prompt."""
    hard = rng.normal(0, 1, (prompts, 1))
    a, b = hard + rng.normal(0, 1, (2, prompts, images)) * rng.uniform(0.2, 2, (prompts, 1))
    return statistics.outcomes(a.ravel(), b.ravel(), band)


@pytest.mark.parametrize(("images", "band"), [(1, 0.0), (3, 0.3)])
def test_of_400_controls_95_percent_of_the_intervals_cover(images: int, band: float) -> None:
    """93 to 97% of A/A runs' intervals hold one half, and the test agrees: 3 to 7% are below p = 0.05."""
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(160), images).tolist()
    held = rejected = 0
    for _ in range(400):
        results = of_no_difference(rng, 160, images, band)
        found, p = INTERVAL.rate(results, prompts), sign_flip_p(results, prompts)
        assert found.low is not None and found.high is not None and p is not None
        held += found.low <= 0.5 <= found.high
        rejected += p <= 0.05
    assert 0.93 <= held / 400 <= 0.97
    assert 0.02 <= rejected / 400 <= 0.07


def test_bca_pays_where_losses_are_rare() -> None:
    """80 prompts, 95% won: the percentile interval's lower bound is above the truth in 5% and more, not in 2.5%.

    BCa's isn't, and it is what `Interval.rate` gives there.
    """
    rng = np.random.default_rng(0)
    above = np.zeros(2)
    for _ in range(400):
        results = (rng.random(80) < 0.95).astype(float)
        if results.all():
            continue
        plain, own = statistics.rate(results, range(80), **INTERVAL.how), INTERVAL.rate(results, range(80))
        assert plain.low is not None and own.low is not None and plain.rate == own.rate
        above += [plain.low > 0.95, own.low > 0.95]
    assert above[0] / 400 > 0.04 and above[1] / 400 < 0.025


@pytest.mark.parametrize("losses", [54, 47])
def test_the_percentile_interval_is_kept_where_both_outcomes_are_frequent(losses: int) -> None:
    """The demo's 54 and 47 of 320 prompts lost."""
    results = np.repeat([1.0, 0.0], [320 - losses, losses])
    assert INTERVAL.rate(results, range(320)) == statistics.rate(results, range(320), **INTERVAL.how)


def test_a_win_everywhere_keeps_wilsons_interval() -> None:
    assert INTERVAL.rate(np.ones(20), range(20)).low == pytest.approx(statistics.wilson(1, 20, 0.95)[0])


def test_an_effect_by_hand() -> None:
    """Base 1, 2, 3 has sd 1; scores 2, 4, 3 are 1 higher on average; the missing one counts for nothing."""
    found = INTERVAL.effect([2, 4, 3, 9, np.nan], [1, 2, 3, np.nan, 1], "abcde")
    assert found.value == pytest.approx(1)
    assert found.low is not None and found.high is not None and found.low < 1 < found.high


def test_an_effect_has_no_unit() -> None:
    """Neither another scale nor another zero of the scores changes it, even far from zero."""
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    first, other = INTERVAL.effect(a, b, range(50)), INTERVAL.effect(1e-3 * a + 1e5, 1e-3 * b + 1e5, range(50))
    assert other.value == pytest.approx(first.value, rel=1e-4)
    assert (other.low, other.high) == (pytest.approx(first.low, rel=1e-3), pytest.approx(first.high, rel=1e-3))


def test_an_effect_over_two_prompts_has_an_interval() -> None:
    """Without one of them nothing varies, so that there is no jackknife: no warning, and bounds all the same."""
    effect = Interval(200, 0.95, 0).effect([1.0, 3.0], [0.0, 1.0], ["a", "b"])
    assert effect.value == pytest.approx(1.5 / 0.5**0.5)
    assert effect.low is not None and effect.high is not None and effect.low <= effect.value <= effect.high


def test_an_effect_over_scores_that_do_not_vary_is_missing() -> None:
    assert INTERVAL.effect([1, 2, 3], [1, 1, 1], "abc").value is None
    assert INTERVAL.effect([1, 2], [1, 3], "aa").value is None


def test_effects_cover() -> None:
    """Scores 0.3 sd higher, skewed, 2 images a prompt: 95% intervals hold 0.3 in 92 to 97%."""
    rng, held = np.random.default_rng(0), 0
    prompts = np.repeat(np.arange(100), 2).tolist()
    for _ in range(300):
        base, gain = rng.gamma(4, 0.5, 200), rng.gamma(2, 0.15, 200)  # sd 1, mean 0.3
        found = Interval(400, 0.95, 0).effect(base + gain, rng.permutation(base), prompts)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.3 <= found.high
    assert held / 300 >= 0.92
