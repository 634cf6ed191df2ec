"""The intervals that evaluation reports: of win rates and accuracies, and of effect sizes.

Legend: N images or pairs, K clusters (distinct prompts).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap, statistics
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.statistics import Rate

RARE = 40
"""Clusters' worth of the rarer outcome below which a rate's interval is BCa. In simulations of 20 to 320 prompts with 4
to 16 losses the percentile interval's lower bound was above the truth 3 to 7% of the time instead of 2.5%, BCa's 0 to
2%; from 40 on both were as they should be (`tests/evaluation/test_intervals.py`)."""


@dataclass(frozen=True)
class Effect:
    """A standardised difference of mean scores, and its interval; None where it can't be computed."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Interval:
    """The settings of intervals: resamples of whole clusters, their confidence, and the seed of the resampling."""

    resamples: int
    confidence: float
    seed: int

    def rate(self, results: ArrayLike, clusters: Sequence[Hashable]) -> Rate:
        """Returns the rate of some outcomes (1, 0.5, 0; NaN is left out and counted) with its interval.

        The percentile interval; BCa where the rarer outcome is rare (`RARE`); Wilson's where nothing varies.
        """
        found = statistics.rate(results, clusters, **self.how)
        if found.rate is None or min(found.rate, 1 - found.rate) * found.clusters >= RARE:
            return found
        known = ~np.isnan(np.asarray(results, np.float64))
        names = [name for name, k in zip(clusters, known, strict=True) if k]
        table = bootstrap.sums([np.asarray(results, np.float64)[known], np.ones(len(names))], names)
        if np.ptp(statistics.mean(table)) == 0:
            return found
        low, high = bootstrap.bca(table, statistics.mean, **self.how)
        return replace(found, low=low, high=high)

    def effect(self, scores: ArrayLike, base: ArrayLike, clusters: Sequence[Hashable]) -> Effect:
        """Returns (mean of scores - mean of base) / sd of base, of values [N] without NaN on either side, with BCa.

        Glass's delta: by how many of the baseline's own standard deviations over images a policy moved the score. It
        tells what a win rate doesn't, how much better; None where the baseline's scores don't vary.
        """
        a, b = np.asarray(scores, np.float64), np.asarray(base, np.float64)
        known = ~(np.isnan(a) | np.isnan(b))
        names = [name for name, k in zip(clusters, known, strict=True) if k]
        if len(set(names)) < 2 or np.ptp(b[known]) == 0:
            return Effect(None, None, None)
        centred = b[known] - b[known].mean()  # else squares lose digits where a score's sd is small beside its mean
        table = bootstrap.sums([a[known] - b[known], centred, np.square(centred), np.ones(len(names))], names)
        low, high = bootstrap.bca(table, glass, **self.how)
        return Effect(float(glass(table.sum(axis=0))), low, high)

    @property
    def how(self) -> dict[str, Any]:
        """Returns the settings as keywords."""
        return {"resamples": self.resamples, "confidence": self.confidence, "seed": self.seed}


def glass(totals: Floats) -> Floats:
    """Returns the mean difference over the baseline's sd [...] from sums of d, b, b^2 and their number [..., 4]."""
    difference, b, squares, count = np.moveaxis(np.asarray(totals), -1, 0)
    variance = (squares - b * b / count) / np.maximum(count - 1, 1)
    known = variance > 1e-12 * squares / count  # rounding's residue of values that don't vary
    return np.where(known, difference / count / np.sqrt(np.where(known, variance, 1.0)), np.nan)
