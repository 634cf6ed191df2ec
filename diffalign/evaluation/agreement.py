"""Agreement between raters: Krippendorff's alpha for nominal answers, with an interval over prompts.

Legend: N answers, C categories, K clusters (distinct prompts), R resamples.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap
from diffalign.evaluation.bootstrap import Floats


@dataclass(frozen=True)
class Agreement:
    """Alpha with its interval, and the plain share of pairs of raters that agree; None where it can't be told."""

    units: int
    """Units with two answers or more; others say nothing of agreement."""
    alpha: float | None
    low: float | None
    high: float | None
    agree: float | None


def agreement(
    answers: Sequence[Hashable],
    units: Sequence[Hashable],
    clusters: Sequence[Hashable],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Agreement:
    """Returns the agreement of answers [N] about units [N], each of which belongs to a cluster [N].

    The interval is the percentile one under resampling of whole clusters; None with fewer than two. Alpha is None where
    all answers are the same: chance would agree, too.
    """
    groups = defaultdict(list)
    owner = dict(zip(units, clusters, strict=True))
    names = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
    for answer, unit in zip(answers, units, strict=True):
        groups[unit].append(names[answer])
    kept = {unit: found for unit, found in groups.items() if len(found) > 1}
    if not kept:
        return Agreement(0, None, None, None, None)
    index = {name: i for i, name in enumerate(dict.fromkeys(owner[unit] for unit in kept))}
    table = np.zeros((len(index), len(names), len(names)))
    for unit, found in kept.items():
        table[index[owner[unit]]] += coincidences(found, len(names))
    whole, K = table.sum(axis=0), len(index)
    low = high = np.nan
    if K > 1 and not np.isnan(alpha(whole)):
        low, high = bootstrap.percentile(
            table.reshape(K, -1),
            lambda totals: alpha(totals.reshape(*totals.shape[:-1], *whole.shape)),
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
    agree = float(np.trace(whole) / whole.sum())
    return Agreement(len(kept), _known(alpha(whole)), _known(low), _known(high), agree)


def coincidences(values: Sequence[int], categories: int) -> Floats:
    """Returns the coincidence matrix [C, C] of one unit's answers: each ordered pair counts 1 / (answers - 1)."""
    counts = np.bincount(values, minlength=categories).astype(np.float64)
    found: Floats = (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    return found


def alpha(table: ArrayLike) -> Floats:
    """Returns Krippendorff's alpha [...] of coincidences [..., C, C] (Krippendorff 2011, nominal data, section D).

    1 - (n - 1) * observed disagreement / expected, with n the number of answers that can be paired; NaN where all are
    the same.
    """
    found = np.asarray(table, np.float64)
    margins = found.sum(axis=-1)
    n = margins.sum(axis=-1)
    observed = n - np.trace(found, axis1=-2, axis2=-1)
    expected = n**2 - (margins**2).sum(axis=-1)
    value: Floats = np.where(expected > 0, 1 - (n - 1) * observed / np.where(expected > 0, expected, 1), np.nan)
    return value


def _known(value: ArrayLike) -> float | None:
    return None if np.isnan(value) else float(np.asarray(value))
