"""Bootstrap intervals of statistics of sums over clusters; whole clusters are drawn (Davison & Hinkley 1997, 3.8).

Legend: N images or pairs, K clusters (distinct prompts), M sums that a statistic is computed from.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Computes a figure [...] from totals [..., M]; NaN where it can't be computed."""
CELLS = 1 << 20  # resampled indices held at once, 8 MiB


@dataclass(frozen=True)
class Estimate:
    """A figure, and its interval."""

    value: float
    low: float
    high: float


def sums(columns: Sequence[ArrayLike], clusters: Sequence[Hashable]) -> Floats:
    """Returns the sums [K, M] of M columns [N] over each cluster, in the order in which clusters appear."""
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([index[name] for name in clusters], np.intp)
    return np.stack([np.bincount(member, weights=np.asarray(column, np.float64)) for column in columns], axis=1)


def percentile(
    table: Floats, statistic: Statistic, *, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Returns the percentile interval of a statistic of sums [K, M]: resamples' own quantiles (DH 1997, 5.3.1)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled(table, statistic, resamples, seed), [tail, 1 - tail])
    return float(low), float(high)


def bca(table: Floats, statistic: Statistic, *, resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Returns the bias-corrected and accelerated interval of a statistic of sums [K, M] (Efron 1987; DH 1997, 5.3.2).

    The quantiles are moved by z0, the share of resamples below the estimate (equal ones count half), and by the
    acceleration a, the skewness of the jackknife's values over clusters.
    """
    from scipy.special import ndtr, ndtri  # seldom needed, and it takes a quarter of a second

    found, value = resampled(table, statistic, resamples, seed), float(statistic(table.sum(axis=0)))
    below = float(np.mean(found < value) + np.mean(found <= value)) / 2
    z0 = ndtri(np.clip(below, 0.5 / len(found), 1 - 0.5 / len(found)))
    without = statistic(table.sum(axis=0) - table)
    kept = without[~np.isnan(without)]  # none where two clusters alone vary: one without the other has no spread
    pulls = kept.mean() - kept if len(kept) else kept
    size = np.square(pulls).sum()
    a = (pulls**3).sum() / (6 * size**1.5) if size > 0 else 0.0
    z = z0 + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(found, ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


def resampled(table: Floats, statistic: Statistic, resamples: int, seed: int) -> Floats:
    """Returns a statistic of resamples, K of the K clusters each, drawn with replacement; leaves NaN out."""
    rng, (K, M) = np.random.default_rng(seed), table.shape
    found, rows = np.empty(resamples), max(CELLS // K, 1)
    for start in range(0, resamples, rows):
        drawn = rng.integers(K, size=(min(rows, resamples - start), K))
        totals = np.stack([table[:, m][drawn].sum(axis=1) for m in range(M)], axis=1)
        found[start : start + rows] = statistic(totals)
    return found[~np.isnan(found)]
