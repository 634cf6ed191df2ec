"""Differences between a policy's images and the baseline's with intervals, over whole prompts; numpy and scipy only.

Legend: N images, K prompts, V values of an attribute, R resamples. Images of one prompt aren't independent, so prompts
are resampled, and a prompt's images of both policies stay together.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap
from diffalign.evaluation.bootstrap import Estimate, Floats
from diffalign.evaluation.statistics import wilson


def by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> Floats:
    """Returns the means [K, ...] of values [N, ...] over each cluster, in the order of first appearance."""
    found = np.asarray(values, np.float64)
    columns = found.reshape(len(found), int(np.prod(found.shape[1:])))
    table = bootstrap.sums([*columns.T, np.ones(len(found))], clusters)
    return np.asarray(table[:, :-1] / table[:, -1:]).reshape(len(table), *found.shape[1:])


def of_rates(after: ArrayLike, before: ArrayLike, clusters: Sequence[Hashable], confidence: float) -> Estimate:
    """Returns the mean over clusters of after - before, both 0 or 1, [N], with an interval that holds for rare events.

    The gains and the losses, means of max(d, 0) and max(-d, 0) over the clusters' differences d, get Wilson's intervals
    with n = K, which are no too narrow for shares between 0 and 1; MOVER combines them, with the correlation of two
    cells of a multinomial (Zou & Donner 2008; Newcombe 1998, method 10). So no event in K prompts gives about
    [-z^2 / K, z^2 / K], where a bootstrap would claim certainty.
    """
    d = by_cluster(np.asarray(after, np.float64) - np.asarray(before, np.float64), clusters)
    gain, loss = float(np.maximum(d, 0).mean()), float(np.maximum(-d, 0).mean())
    (gain_low, gain_high), (loss_low, loss_high) = (wilson(share, len(d), confidence) for share in (gain, loss))
    r = -((gain * loss / ((1 - gain) * (1 - loss))) ** 0.5) if max(gain, loss) < 1 else 0.0

    def half(first: float, second: float) -> float:
        return float(np.sqrt(first**2 + second**2 - 2 * r * first * second))

    value = gain - loss
    low = value - half(gain - gain_low, loss_high - loss)
    high = value + half(gain_high - gain, loss - loss_low)
    return Estimate(value, max(low, -1.0), min(high, 1.0))


def one_hot(labels: Sequence[int], values: int) -> Floats:
    """Returns labels [N] as indicators [N, V]."""
    return np.asarray(np.eye(values)[np.asarray(labels, int)])


def corrected(shares: Floats, confusion: ArrayLike) -> Floats:
    """Returns true shares [..., V] (or differences of shares) of seen ones, by a classifier's confusion matrix [V, V].

    Row i has how often each value is seen where i is true, and adds up to 1: seen = true @ confusion. Raises ValueError
    for a matrix that can't be undone: a classifier that tells nothing.
    """
    matrix = np.asarray(confusion, np.float64)
    if np.linalg.cond(matrix) > 100:
        raise ValueError("confusion: expected the matrix of a classifier that tells the values apart")
    return np.asarray(shares @ np.linalg.inv(matrix))


def total_variation(differences: Floats) -> Floats:
    """Returns half the sum of |mean over K| of differences of shares, [..., K, V] to [...]: 0 equal, 1 disjoint."""
    return np.asarray(np.abs(differences.mean(axis=-2)).sum(axis=-1) / 2)


def distance(differences: Floats, confidence: float, resamples: int, seed: int) -> Estimate:
    """Returns the total variation of two policies' shares from differences [K, V], with a bootstrap interval.

    The distance of two samples of one distribution isn't 0, so that resamples of it lie too high. But it's a norm of
    the mean difference m: |tv(m^) - tv(m)| <= tv(m^ - m), and the interval's half width is the quantile of the right
    side, tv(m* - m^) of resamples m*. By the triangle inequality it covers at least as often as it says. It's no
    narrower than Wilson's bound of 0 in K: where nothing differs a bootstrap would claim certainty.
    """
    rng, K = np.random.default_rng(seed), len(differences)
    rows, centred = max(bootstrap.CELLS // differences.size, 1), differences - differences.mean(axis=0)
    parts = [
        total_variation(centred[rng.integers(K, size=(min(rows, resamples - start), K))])
        for start in range(0, resamples, rows)
    ]
    least = wilson(0.0, K, confidence)[1]
    return around(float(total_variation(differences)), np.maximum(np.concatenate(parts), least), confidence)


def around(value: float, errors: Floats, confidence: float) -> Estimate:
    """Returns a distance in [0, 1] with an interval as wide as the quantile of its errors' size, [R]."""
    half = float(np.quantile(errors, confidence))
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def shift_p(differences: Floats, resamples: int, seed: int) -> float:
    """Returns the p value of no shift: how often a distance as large comes up where policies swap prompts at random.

    Under no shift a prompt's difference is as likely as its opposite, so the test is exact whatever its images'
    dependence: of unshifted policies a share of at most alpha has p <= alpha.
    """
    rng, K = np.random.default_rng(seed), len(differences)
    rows, value, reached = max(bootstrap.CELLS // K, 1), total_variation(differences), 0
    for start in range(0, resamples, rows):
        signs = rng.choice([-1.0, 1.0], size=(min(rows, resamples - start), K))
        swapped = np.abs(signs @ differences / K).sum(axis=1) / 2
        reached += int((swapped >= value - 1e-12).sum())
    return (1 + reached) / (1 + resamples)


def group_rates(sums: Floats, counts: Floats, groups: Sequence[Hashable]) -> Floats:
    """Returns the rate of each group of raters, who each have a sum and a count, [raters]; in order of appearance."""
    member = np.unique([str(group) for group in groups], return_inverse=True)[1]
    return np.asarray(np.bincount(member, sums) / np.bincount(member, counts))


def gap(
    sums: Floats, counts: Floats, groups: Sequence[Hashable], confidence: float, resamples: int, seed: int
) -> Estimate:
    """Returns the highest group's rate minus the lowest's, with a bootstrap interval, raters resampled within groups.

    A rater has `counts` pairs, of which `sums` agree. The half width is the quantile of the gap between the groups'
    errors, as in `distance`: the range is a seminorm, too (Tukey's argument). Errors are enlarged by sqrt(n / (n - 1))
    for the n raters of a group; NaN bounds where n is 1.
    """
    rng, names = np.random.default_rng(seed), np.array([str(group) for group in groups])
    value, errors = float(np.ptp(group_rates(sums, counts, groups))), []
    for name in np.unique(names):
        right, asked = sums[names == name], counts[names == name]
        n = len(right)
        if n < 2:
            return Estimate(value, np.nan, np.nan)
        drawn = rng.integers(n, size=(resamples, n))
        rates = right[drawn].sum(axis=1) / asked[drawn].sum(axis=1)
        errors.append((rates - right.sum() / asked.sum()) * (n / (n - 1)) ** 0.5)
    return around(value, np.ptp(np.stack(errors), axis=0), confidence)


def gap_p(sums: Floats, counts: Floats, groups: Sequence[Hashable], resamples: int, seed: int) -> float:
    """Returns the p value of no difference between groups: how often raters in random groups have as large a gap.

    Whole raters change groups, since one rater's answers aren't independent. Exact where raters don't differ by group.
    """
    rng, value = np.random.default_rng(seed), np.ptp(group_rates(sums, counts, groups))
    orders = (rng.permutation(len(sums)) for _ in range(resamples))
    reached = sum(bool(np.ptp(group_rates(sums[o], counts[o], groups)) >= value - 1e-12) for o in orders)
    return (1 + reached) / (1 + resamples)
