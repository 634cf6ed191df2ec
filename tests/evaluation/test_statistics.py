"""Win rates by hand, and intervals that hold the truth as often as they say."""

import math

import numpy as np
import pytest

from diffalign.evaluation.statistics import cluster_interval, outcomes, rate, ratio, wilson


def test_outcomes_are_one_half_zero_and_nan() -> None:
    found = outcomes([3.0, 2.0, 1.0, math.nan, 1.0], [1.0, 2.0, 3.0, 1.0, math.nan])
    np.testing.assert_array_equal(found, [1.0, 0.5, 0.0, math.nan, math.nan])


def test_outcomes_swap_sides() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50)).round(1)
    np.testing.assert_array_equal(outcomes(a, b), 1 - outcomes(b, a))


def test_scores_within_the_band_tie() -> None:
    """Differences of 0.25, exactly the band, and of 0.5, on both sides."""
    np.testing.assert_array_equal(outcomes([1.0, 1.25, 1.5, 1.0], [1.25, 1.0, 1.0, 1.5], 0.25), [0.5, 0.5, 1, 0])


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
    monkeypatch.setattr("diffalign.evaluation.bootstrap.CELLS", 30 * 7)
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
