"""Win rates by hand, and intervals that hold the truth as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from diffalign.evaluation.statistics import cluster_interval, outcomes, rate, rate_over_seeds, ratio, wilson


def test_outcomes_are_one_half_zero_and_nan() -> None:
    found = outcomes([3.0, 2.0, 1.0, math.nan, 1.0], [1.0, 2.0, 3.0, 1.0, math.nan])
    np.testing.assert_array_equal(found, [1.0, 0.5, 0.0, math.nan, math.nan])


def test_outcomes_swap_sides() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50)).round(1)
    np.testing.assert_array_equal(outcomes(a, b), 1 - outcomes(b, a))


def test_outcomes_need_equal_lengths() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        outcomes([1, 2], [1, 2, 3])


def test_rate_by_hand() -> None:
    """3 wins, 2 ties, 1 loss, 1 missing: (3 + 2/2) / 6 = 2/3; the missing one's prompt counts for nothing."""
    found = rate([1, 1, 1, 0.5, 0.5, 0, math.nan], ["p", "q", "r", "s", "t", "u", "v"])
    assert (found.wins, found.ties, found.losses, found.missing, found.clusters) == (3, 2, 1, 1, 6)
    assert found.rate == pytest.approx(2 / 3)
    assert found.low is not None and found.high is not None
    assert found.low < 2 / 3 < found.high


@pytest.mark.parametrize("results", [[], [math.nan, math.nan]])
def test_a_rate_of_nothing_is_missing_not_a_half(results: list[float]) -> None:
    found = rate(results, list(range(len(results))))
    assert (found.rate, found.low, found.high, found.missing) == (None, None, None, len(results))


def test_rate_needs_a_cluster_for_each_outcome() -> None:
    with pytest.raises(ValueError, match="cluster"):
        rate([1.0, 0.0], ["p"])


def test_the_interval_by_hand() -> None:
    """Two prompts, one won, one lost: a resample's mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.

    At 40% confidence the tails are 0.3: the 0.3 quantile and the 0.7 quantile are both 1/2. At 80% they are 0 and 1.
    """
    values = np.array([1.0, 0.0])
    assert cluster_interval(values, ["p", "q"], resamples=4000, confidence=0.4, seed=0) == (0.5, 0.5)
    assert cluster_interval(values, ["p", "q"], resamples=4000, confidence=0.8, seed=0) == (0.0, 1.0)


def test_a_prompts_images_are_resampled_together() -> None:
    """Prompts p (three wins) and q (one loss): the resamples' means are 1 (pp), 3/4 (pq, qp) and 0 (qq), nothing else.

    Resampling the four images instead would give 1/4 and 1/2 too.
    """
    values = np.array([1.0, 1.0, 1.0, 0.0])
    seen = {
        bound
        for confidence in (0.1, 0.3, 0.45, 0.8)
        for bound in cluster_interval(values, ["p", "p", "p", "q"], resamples=2000, confidence=confidence, seed=0)
    }
    assert seen == {0.0, 0.75, 1.0}


def test_repeating_a_prompts_images_narrows_nothing() -> None:
    once = np.random.default_rng(0).integers(0, 2, 80).astype(float)
    one = cluster_interval(once, range(80), resamples=500, confidence=0.95, seed=1)
    four = cluster_interval(
        np.repeat(once, 4), np.repeat(np.arange(80), 4).tolist(), resamples=500, confidence=0.95, seed=1
    )
    assert one == pytest.approx(four)


def test_wins_everywhere_arent_certainty() -> None:
    """All of 20 prompts won: Wilson's lower bound is n / (n + z²) = 20 / (20 + 1.96²) = 0.839."""
    low, high = cluster_interval(np.ones(40), [i // 2 for i in range(40)], resamples=100, confidence=0.95, seed=0)
    assert low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)
    assert high == pytest.approx(1.0)


def test_wilson_by_hand() -> None:
    """Share 1/2 of 4, z = 1.96: half-width 1.96 * sqrt(0.25/4 + 3.8416/64) / (1 + 3.8416/4) = 0.3500."""
    assert wilson(0.5, 4, 0.95) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(0).random(30).round()
    calls = [cluster_interval(values, range(30), resamples=99, confidence=0.95, seed=seed) for seed in (0, 0, 1)]
    assert calls[0] == calls[1] != calls[2]


def test_many_clusters_are_resampled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(30).round()
    whole = cluster_interval(values, range(30), resamples=100, confidence=0.95, seed=0)
    monkeypatch.setattr("diffalign.evaluation.statistics.CELLS", 30 * 7)
    assert cluster_interval(values, range(30), resamples=100, confidence=0.95, seed=0) == whole


@pytest.mark.parametrize(("share", "images"), [(0.5, 1), (0.8, 1), (0.7, 3)])
def test_coverage(share: float, images: int) -> None:
    """Of 400 experiments of 100 prompts, about 95% of intervals hold the truth, however alike a prompt's images are.

    A prompt's own win probability is Beta(2s, 2(1 - s)), so that its images agree more often than chance. The standard
    error of the coverage is 1.1 points; the percentile bootstrap is a little too narrow at 100 clusters.
    """
    rng = np.random.default_rng(7)
    prompts = np.repeat(np.arange(100), images).tolist()
    held = 0
    for seed in range(400):
        own = np.repeat(rng.beta(2 * share, 2 * (1 - share), 100), images)
        values = (rng.random(100 * images) < own).astype(float)
        low, high = cluster_interval(values, prompts, resamples=300, confidence=0.95, seed=seed)
        held += low <= share <= high
    assert 0.91 <= held / 400 <= 0.985


def test_ignoring_prompts_would_cover_too_little() -> None:
    """The control of the coverage test: with images as clusters of their own, three alike a prompt, it fails."""
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        values = np.repeat((rng.random(100) < 0.7).astype(float), 3)
        low, high = cluster_interval(values, range(300), resamples=300, confidence=0.95, seed=seed)
        held += low <= 0.7 <= high
    assert held / 200 < 0.85


def test_a_ratio_and_its_error_by_hand() -> None:
    """Clusters a, b, c with sums y = 1 + 2, 1, 5 and x = 4, 2, 3: r = 9 / 9; residuals -1, -1, 2; 3/2 * 6 = 9."""
    value, error = ratio([1, 1, 2, 5], [1, 2, 3, 3], ["a", "b", "a", "c"])
    assert value == 1
    assert error == pytest.approx(math.sqrt(9) / 9)


def test_the_error_of_a_mean_is_the_usual_one_where_each_is_its_own_cluster() -> None:
    values = np.random.default_rng(0).normal(size=30)
    value, error = ratio(values, np.ones(30), list(range(30)))
    assert value == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(30))
    assert math.isnan(ratio([1, 2], [1, 1], ["a", "a"])[1])


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
