"""Win rates and accuracies with intervals that know images of one prompt aren't independent.

Numpy and scipy only. Legend: N images or pairs, K clusters (distinct prompts).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap
from diffalign.evaluation.bootstrap import Floats


@dataclass(frozen=True)
class Rate:
    """A share of contests won, ties counting half, and its interval; `rate`, `low`, `high` are None without any."""

    wins: int
    ties: int
    losses: int
    missing: int
    """Contests left out because a score was missing on either side."""
    clusters: int
    """Distinct prompts among those that count."""
    rate: float | None
    low: float | None
    high: float | None


def outcomes(a: ArrayLike, b: ArrayLike, band: float = 0.0) -> Floats:
    """Returns 1 where a > b, 0.5 where equal, 0 where a < b, NaN where either is NaN: [N] from two [N].

    Values that differ by no more than `band` are equal.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"outcomes: expected two vectors of one length, got shapes {first.shape} and {second.shape}")
    missing = np.isnan(first) | np.isnan(second)
    return np.where(missing, np.nan, 0.5 + 0.5 * (first > second + band) - 0.5 * (first + band < second))


def rate(
    results: ArrayLike, clusters: Sequence[Hashable], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Rate:
    """Returns (W + T/2) / N of some outcomes (1, 0.5, 0; NaN is left out and counted), with its interval.

    `clusters` [N] names each outcome's prompt; the interval is `cluster_interval`'s. `intervals.Interval.rate` has the
    interval that evaluation reports.
    """
    values = np.asarray(results, np.float64)
    if values.shape != (len(clusters),):
        raise ValueError(f"rate: expected a cluster for each of {values.shape} outcomes, got {len(clusters)}")
    known = ~np.isnan(values)
    kept, names = values[known], [c for c, k in zip(clusters, known, strict=True) if k]
    wins, losses = int((kept == 1).sum()), int((kept == 0).sum())
    ties, missing = len(kept) - wins - losses, int((~known).sum())
    if not len(kept):
        return Rate(0, 0, 0, missing, 0, None, None, None)
    low, high = cluster_interval(kept, names, resamples=resamples, confidence=confidence, seed=seed)
    return Rate(wins, ties, losses, missing, len(set(names)), float(kept.mean()), low, high)


def cluster_interval(
    values: Floats, clusters: Sequence[Hashable], *, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Returns a mean's percentile interval under resampling of whole clusters (Davison & Hinkley 1997, 2.4, 3.8).

    Clusters, not values, are drawn with replacement, so values of one prompt may depend on each other. Where all
    clusters have the same mean (one cluster; a win everywhere) resampling has no width and would claim certainty:
    there Wilson's interval with N = the number of clusters is given. `values` are in [0, 1].
    """
    table = bootstrap.sums([values, np.ones(len(clusters))], clusters)
    if np.ptp(mean(table)) == 0:
        return wilson(float(values.mean()), len(table), confidence)
    return bootstrap.percentile(table, mean, resamples=resamples, confidence=confidence, seed=seed)


def mean(totals: Floats) -> Floats:
    """Returns the mean [...] of values from their sum and number [..., 2]."""
    return np.asarray(totals[..., 0] / totals[..., 1])


def wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """Returns Wilson's score interval of a share of n independent trials (Wilson 1927)."""
    from scipy.special import ndtri  # seldom needed, and it takes a quarter of a second

    z = float(ndtri(0.5 + confidence / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


def ratio(numerators: ArrayLike, denominators: ArrayLike, clusters: Sequence[Hashable]) -> tuple[float, float]:
    """Returns sum(numerators) / sum(denominators), each [N], and its standard error over clusters; NaN with one.

    With K clusters that have sums y and x, r = sum y / sum x: sqrt(K / (K - 1) * sum (y - r x)^2) / sum x, the
    linearised one (Cochran 1977, eq. 2.46 and 9A). Denominators of one give the mean.
    """
    y, x = bootstrap.sums([numerators, denominators], clusters).T
    K, value = len(y), y.sum() / x.sum()
    spread = np.square(y - value * x).sum() * K / (K - 1) if K > 1 else np.nan
    return float(value), float(np.sqrt(spread) / x.sum())
