"""Tests of a win rate against one half, and their adjustment where there are many.

Legend: N images, K clusters (distinct prompts), S trainings that differ in their seed.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap


def sign_flip_p(results: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Returns the two-sided p value of outcomes [N] (1, 0.5, 0; NaN is left out) for a rate of 1/2; None without any.

    Under the hypothesis a prompt's wins and losses could as well have changed places, all of them together: the sum of
    (outcome - 1/2) over clusters is compared with its exact distribution under random signs of the clusters' sums. With
    one image a prompt that is the sign test, ties left out. p is the probability of a sum at least as far from 0.
    """
    from scipy.stats import binom  # it takes half a second

    values = np.asarray(results, np.float64)
    known = ~np.isnan(values)
    if not known.any():
        return None
    names = [name for name, k in zip(clusters, known, strict=True) if k]
    doubled = np.rint(bootstrap.sums([2 * values[known] - 1], names)[:, 0]).astype(int)
    chances = np.ones(1)  # of each sum -n..n
    for size, count in zip(*np.unique(np.abs(doubled[doubled != 0]), return_counts=True), strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(float(chances[np.abs(sums) >= abs(doubled.sum())].sum()), 1.0)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Returns p values adjusted by Holm's step-down method (Holm 1979), in their order; None stays None, uncounted.

    Rejecting where the adjusted value is below alpha keeps the chance of any false rejection among them below alpha.
    """
    found: list[float | None] = [None] * len(values)
    ordered = sorted((value, i) for i, value in enumerate(values) if value is not None)
    worst = 0.0
    for rank, (value, i) in enumerate(ordered):
        worst = max(worst, min((len(ordered) - rank) * value, 1.0))
        found[i] = worst
    return found
