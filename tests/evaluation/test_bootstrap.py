"""The two bootstraps against scipy's, an independent one, and BCa's shift by hand."""

import numpy as np
import pytest
from scipy import stats

from diffalign.evaluation import bootstrap
from diffalign.evaluation.bootstrap import bca, percentile, sums
from diffalign.evaluation.statistics import mean


def test_sums_over_clusters_by_hand() -> None:
    np.testing.assert_array_equal(sums([[1, 2, 3], [1, 1, 1]], ["b", "a", "b"]), [[4, 2], [2, 1]])


@pytest.mark.parametrize(("own", "method"), [(percentile, "percentile"), (bca, "BCa")])
def test_intervals_are_scipys(own: object, method: str) -> None:
    """Of a skewed ratio of sums over 30 clusters; the resamples differ, so ends agree to their own error."""
    assert callable(own)
    rng = np.random.default_rng(3)
    table = np.stack([rng.exponential(1, 30), rng.integers(1, 4, 30)], axis=1)
    found = own(table, mean, resamples=20000, confidence=0.95, seed=0)
    theirs = stats.bootstrap(
        tuple(table.T),
        lambda y, x, axis: y.sum(axis=axis) / x.sum(axis=axis),
        paired=True,
        n_resamples=20000,
        method=method,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bca_is_the_percentile_interval_where_nothing_is_skewed() -> None:
    """Values symmetric about their mean: no bias, no acceleration."""
    values = np.concatenate([np.linspace(0.1, 1, 20), -np.linspace(0.1, 1, 20)])
    table = np.stack([values, np.ones(40)], axis=1)
    how = {"resamples": 20000, "confidence": 0.9, "seed": 0}
    assert bca(table, mean, **how) == pytest.approx(percentile(table, mean, **how), abs=0.01)  # type: ignore[arg-type]


def test_what_a_resample_cannot_tell_is_left_out() -> None:
    """The sd of three clusters is 0 where one is drawn thrice."""

    def one_over_range(totals: np.ndarray) -> np.ndarray:
        return np.where(totals[..., 0] == 3, np.nan, totals[..., 0])

    found = bootstrap.resampled(np.array([[1.0], [0.0]]), one_over_range, 200, 0)
    assert set(found) == {0, 1, 2}
