"""Trainings that differ in their seed: by hand, and intervals that cover as often as they say."""

import numpy as np
import pytest
from scipy import stats

from diffalign.evaluation.seeds import p_over_seeds, rate_over_seeds
from diffalign.evaluation.statistics import wilson


def test_seeds_are_in_the_interval_by_hand() -> None:
    """Rates 1/2 and 3/4 of two seeds: seeds' variance is (1/32) / 2 = 1/64; prompts' of 1, 1, 1/2, 0 is 11/192.

    The mean is 5/8, the squares of the distances add to 9/64 + 9/64 + 1/64 + 25/64 = 11/16, so 11/16 / 3 / 4 = 11/192.
    Degrees of freedom: (1/64 + 11/192)^2 / ((11/192)^2 / 3 + (1/64)^2 / 1) = 14^2 / (121/3 + 9).
    """
    found = rate_over_seeds([[1, 1, 0, 0], [1, 1, 1, 0]], "abcd", confidence=0.95)
    half = stats.t.ppf(0.975, 196 / (121 / 3 + 9)) * (14 / 192) ** 0.5
    assert found.rate == 0.625 and (found.wins, found.ties, found.losses, found.clusters) == (5, 0, 3, 4)
    assert (found.low, found.high) == (pytest.approx(max(0.625 - half, 0)), pytest.approx(min(0.625 + half, 1)))


def test_intervals_with_seeds_cover() -> None:
    """400 simulated studies of 3 seeds: seeds differ by 8 points, prompts by 20; 95% intervals cover 93% up."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        chances = 0.6 + rng.normal(0, 0.08, (3, 1)) + rng.normal(0, 0.2, (1, 150))
        found = rate_over_seeds(rng.random((3, 150)) < chances.clip(0, 1), range(150), confidence=0.95)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.597 <= found.high  # clipping takes 0.003 from 0.6
    assert 0.93 <= covered / 400 <= 0.995


def test_a_win_everywhere_is_not_certain_with_seeds_either() -> None:
    found = rate_over_seeds(np.ones((3, 20)), range(20), confidence=0.95)
    assert (found.rate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(1.0, 20, 0.95)[0]) and found.low < 0.9


def test_what_is_missing_for_a_seed_is_left_out_for_all() -> None:
    found = rate_over_seeds([[1, np.nan, 0, 1], [1, 1, 0, 0]], "abcd", confidence=0.95)
    assert found.rate == pytest.approx(0.5) and found.missing == 1 and found.clusters == 3
    with pytest.raises(ValueError, match=r"S >= 2"):
        rate_over_seeds([[1, 0]], "ab", confidence=0.95)


def test_the_p_value_is_that_of_the_interval() -> None:
    """A 1 - p interval ends at one half; a win everywhere of 20 prompts has the sign test's 2 / 2^20."""
    outcomes = (np.random.default_rng(0).random((3, 60)) < 0.62).astype(float)
    p = p_over_seeds(outcomes, range(60))
    assert p is not None and 0 < p < 1
    found = rate_over_seeds(outcomes, range(60), confidence=1 - p)
    assert found.low == pytest.approx(0.5)
    assert p_over_seeds(np.ones((3, 20)), range(20)) == pytest.approx(2 * 0.5**20)
    assert p_over_seeds(np.full((3, 20), 0.5), range(20)) == 1
    assert p_over_seeds(np.ones((2, 3)), ["a"] * 3) is None
