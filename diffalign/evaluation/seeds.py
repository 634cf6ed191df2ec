"""Win rates over several trainings that differ in their seed only: seeds are a level of their own.

Legend: N images, K clusters (distinct prompts), S trainings.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation.statistics import Rate, ratio, wilson


@dataclass(frozen=True)
class Mean:
    """A mean of outcomes over prompts and seeds, its standard error, and the degrees of freedom of that."""

    mean: float
    error: float
    """0 where nothing varies."""
    freedom: float


def estimate(kept: ArrayLike, names: Sequence[Hashable]) -> Mean:
    """Returns the mean of outcomes [S >= 2, N] of K >= 2 clusters, and its error.

    The variance of the mean is prompts' (linearised over clusters, of the outcomes' mean over seeds) plus seeds'
    (s^2 / S of the rates), with Welch and Satterthwaite's degrees of freedom.
    """
    values = np.asarray(kept, np.float64)
    mean, error = ratio(values.mean(axis=0), np.ones(len(names)), names)
    parts = np.array([error**2, values.mean(axis=1).var(ddof=1) / len(values)])
    if not parts.any():
        return Mean(mean, 0.0, np.inf)
    freedom = parts.sum() ** 2 / (parts**2 / [len(set(names)) - 1, len(values) - 1]).sum()
    return Mean(mean, float(parts.sum() ** 0.5), float(freedom))


def rate_over_seeds(results: ArrayLike, clusters: Sequence[Hashable], *, confidence: float) -> Rate:
    """Returns the rate of outcomes [S, N] of S >= 2 trainings that differ in their seed, with seeds in its interval.

    The error is `estimate`'s, the quantile Student's. What is missing for one seed is left out for all. Where nothing
    varies (a win everywhere) that would claim certainty: there Wilson's interval is given, with N = K.
    """
    from scipy.special import stdtrit

    values, kept, names = known(results, clusters)
    wins, losses = int((kept == 1).sum()), int((kept == 0).sum())
    count, groups, missing = kept.size, len(set(names)), int(np.isnan(values).sum())
    if groups < 2:
        return Rate(wins, count - wins - losses, losses, missing, groups, None, None, None)
    found = estimate(kept, names)
    if not found.error:
        low, high = wilson(found.mean, groups, confidence)
    else:
        half = float(stdtrit(found.freedom, 0.5 + confidence / 2) * found.error)
        low, high = max(found.mean - half, 0.0), min(found.mean + half, 1.0)
    return Rate(wins, count - wins - losses, losses, missing, groups, found.mean, low, high)


def p_over_seeds(results: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Returns the two-sided p value of outcomes [S, N] for a rate of 1/2, by Student's t; None where there is no rate.

    Where nothing varies it's the sign test over clusters: 2 / 2^K of a win everywhere.
    """
    from scipy.special import stdtr

    _, kept, names = known(results, clusters)
    groups = len(set(names))
    if groups < 2:
        return None
    found = estimate(kept, names)
    if not found.error:
        return 1.0 if found.mean == 0.5 else 2.0 ** (1 - groups)
    return float(2 * stdtr(found.freedom, -abs(found.mean - 0.5) / found.error))


def known(results: ArrayLike, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, list[Hashable]]:
    """Returns outcomes as an array [S, N], those without a missing one of any seed, and the latter's clusters."""
    values = np.asarray(results, np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] != len(clusters):
        raise ValueError(f"rate_over_seeds: expected [S >= 2, {len(clusters)}] outcomes, got {list(values.shape)}")
    there = np.asarray(~np.isnan(values).any(axis=0))
    return values, values[:, there], [name for name, k in zip(clusters, there, strict=True) if k]
