"""Win rates and accuracies with intervals that know images of one prompt aren't independent.

Numpy and scipy only. Legend: N images or pairs, K clusters (distinct prompts).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CELLS = 1 << 20  # resampled indices held at once, 8 MiB


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


@dataclass(frozen=True)
class Interval:
    """The settings of intervals: resamples of whole clusters, their confidence, and the seed of the resampling."""

    resamples: int
    confidence: float
    seed: int

    def rate(self, results: ArrayLike, clusters: Sequence[Hashable]) -> Rate:
        """Returns the rate of some outcomes with its interval; see `rate`."""
        return rate(results, clusters, resamples=self.resamples, confidence=self.confidence, seed=self.seed)


def outcomes(a: ArrayLike, b: ArrayLike) -> Floats:
    """Returns 1 where a > b, 0.5 where equal, 0 where a < b, NaN where either is NaN: [N] from two [N]."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"outcomes: expected two vectors of one length, got shapes {first.shape} and {second.shape}")
    missing = np.isnan(first) | np.isnan(second)
    return np.where(missing, np.nan, 0.5 + 0.5 * (first > second) - 0.5 * (first < second))


def rate(
    results: ArrayLike, clusters: Sequence[Hashable], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Rate:
    """Returns (W + T/2) / N of some outcomes (1, 0.5, 0; NaN is left out and counted), with its interval.

    `clusters` [N] names each outcome's prompt; the interval is `cluster_interval`'s.
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


def rate_over_seeds(results: ArrayLike, clusters: Sequence[Hashable], *, confidence: float) -> Rate:
    """Returns the rate of outcomes [S, N] of S >= 2 trainings that differ in their seed, with seeds in its interval.

    The variance of the mean is prompts' (linearised over clusters, of the outcomes' mean over seeds) plus seeds'
    (s^2 / S of the rates); the quantile is Student's with Welch and Satterthwaite's degrees of freedom. What is
    missing for one seed is left out for all. Where nothing varies (a win everywhere) that would claim certainty: there
    Wilson's interval is given, with N = the number of clusters.
    """
    from scipy.special import stdtrit

    values = np.asarray(results, np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] != len(clusters):
        raise ValueError(f"rate_over_seeds: expected [S >= 2, {len(clusters)}] outcomes, got {list(values.shape)}")
    known = np.asarray(~np.isnan(values).any(axis=0))
    kept, names = values[:, known], [c for c, k in zip(clusters, known, strict=True) if k]
    wins, losses = int((kept == 1).sum()), int((kept == 0).sum())
    count, groups = kept.size, len(set(names))
    if groups < 2:
        return Rate(wins, count - wins - losses, losses, int(np.isnan(values).sum()), groups, None, None, None)
    mean, error = ratio(kept.mean(axis=0), np.ones(len(names)), names)
    parts = np.array([error**2, kept.mean(axis=1).var(ddof=1) / len(kept)])
    if not parts.any():
        low, high = wilson(mean, groups, confidence)
    else:
        freedom = parts.sum() ** 2 / (parts**2 / [groups - 1, len(kept) - 1]).sum()
        half = float(stdtrit(freedom, 0.5 + confidence / 2) * parts.sum() ** 0.5)
        low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    return Rate(wins, count - wins - losses, losses, int(np.isnan(values).sum()), groups, mean, low, high)


def cluster_interval(
    values: Floats, clusters: Sequence[Hashable], *, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Returns a mean's percentile interval under resampling of whole clusters (Davison & Hinkley 1997, 2.4, 3.8).

    Clusters, not values, are drawn with replacement, so values of one prompt may depend on each other. Where all
    clusters have the same mean (one cluster; a win everywhere) resampling has no width and would claim certainty:
    there Wilson's interval with N = the number of clusters is given. `values` are in [0, 1].
    """
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([index[name] for name in clusters])
    sums = np.bincount(member, weights=values)
    counts = np.bincount(member).astype(np.float64)
    if np.ptp(sums / counts) == 0:
        return wilson(float(values.mean()), len(counts), confidence)
    rng = np.random.default_rng(seed)
    K, means = len(counts), np.empty(resamples)
    rows = max(CELLS // K, 1)
    for start in range(0, resamples, rows):
        drawn = rng.integers(K, size=(min(rows, resamples - start), K))
        means[start : start + rows] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


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
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([index[name] for name in clusters])
    y = np.bincount(member, weights=np.asarray(numerators, np.float64))
    x = np.bincount(member, weights=np.asarray(denominators, np.float64))
    K, value = len(y), y.sum() / x.sum()
    spread = np.square(y - value * x).sum() * K / (K - 1) if K > 1 else np.nan
    return float(value), float(np.sqrt(spread) / x.sum())
