"""The alarms of evaluation: figures of a policy's images against the baseline's, held against thresholds.

Pure functions of arrays. An alarm is raised by the bound of its figure's interval, not by the figure: few images raise
none by chance. What can't be measured is missing. Legend: N images, K prompts, S images a prompt, D features.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from diffalign.evaluation import bootstrap, looks
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Alarm

Bounds = tuple[float, float | None, float | None]
"""A figure and its interval."""
NEAR = 0.01
"""Of held-out images so many are as near to a training image, and a generated one that is nearer counts as a copy."""


def hacking(proxy: Sequence[float | None], held_out: Sequence[float | None]) -> Bounds | None:
    """Returns the share of a proxy's gain that a held-out judge sees, of two win rates with their bounds, [3] each.

    A gain is a win rate minus a half, which asks of each image and its baseline's only: how hard prompts are, of which
    judges' scores hold more or less, isn't in it. Gao et al. 2023 (arXiv 2210.10760) set scores side by side, whose
    units differ here. The interval takes each gain's worse bound, which makes it wide. None unless the proxy surely
    gained.
    """
    gains = [value - 0.5 for value in (*proxy, *held_out) if value is not None]
    if len(gains) < 6 or gains[1] <= 0:
        return None
    gain, least, most, seen, low, high = gains
    ends = [bound / end for bound in (low, high) for end in (least, most)]
    return seen / gain, min(ends), max(ends)


def diversity(policy: Floats, base: Floats, interval: Interval) -> Bounds | None:
    """Returns the mean distance between a policy's images over that between the baseline's, features [K, S, D] each.

    With S = 1 the distances are between images of different prompts, else between images of a prompt. The interval is
    the percentile one over prompts. None where the baseline's images don't differ.
    """
    sides = [spread(features) for features in (policy, base)]
    K = len(policy)
    weights = np.random.default_rng(interval.seed).multinomial(K, np.full(K, 1 / K), interval.resamples).astype(float)
    (own, theirs), (some, others) = (weighted(sides, w) for w in (np.ones((1, K)), weights))
    if not theirs[0] > 0:
        return None
    tail = (1 - interval.confidence) / 2
    known = others > 0
    low, high = np.quantile(some[known] / others[known], [tail, 1 - tail])
    return float(own[0] / theirs[0]), float(low), float(high)


def spread(features: Floats) -> Floats:
    """Returns distances between prompts' images [K, K] of features [K, 1, D], or within prompts [K] of [K, S, D]."""
    S = features.shape[1]
    if S == 1:
        return looks.distances(features[:, 0], features[:, 0])
    return np.array([looks.distances(own, own).sum() / (S * (S - 1)) for own in features])


def weighted(sides: Sequence[Floats], weights: Floats) -> list[Floats]:
    """Returns the mean distance [R] of each side for each row of prompts' weights [R, K]; no image meets itself."""
    if sides[0].ndim == 1:
        return [weights @ side / weights.sum(axis=1) for side in sides]
    pairs = weights.sum(axis=1) ** 2 - np.square(weights).sum(axis=1)
    return [((weights @ side) * weights).sum(axis=1) / np.maximum(pairs, 1) for side in sides]


def vendi(policy: Floats, base: Floats) -> float | None:
    """Returns a policy's Vendi score over the baseline's, features [K, S, D] (Friedman & Dieng 2023, arXiv 2210.02410).

    The exponential of the entropy of the eigenvalues of the kernel / n: how many different images there are. Of one
    image a prompt it's over prompts, of several the mean over prompts of each one's. The kernel is Gaussian, as wide as
    the baseline's median distance. None where the baseline's images don't differ.
    """
    groups = [np.swapaxes(f, 0, 1) if f.shape[1] == 1 else f for f in (policy, base)]
    theirs = np.stack([looks.distances(own, own) for own in groups[1]])
    width = float(np.median(theirs[:, ~np.eye(theirs.shape[1], dtype=bool)]))
    if not width > 0:
        return None
    own, other = (float(np.mean([vendi_score(images, width) for images in group])) for group in groups)
    return own / other


def vendi_score(features: Floats, width: float) -> float:
    """Returns the Vendi score of features [n, D] with a Gaussian kernel: 1 where all are alike, n where none are."""
    kernel = np.exp(-np.square(looks.distances(features, features) / width) / 2)
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def alignment(policy: ArrayLike, base: ArrayLike, prompts: Sequence[int], interval: Interval) -> Bounds | None:
    """Returns a policy's gap over the baseline's: scores for the own prompt minus for another one, [N] each.

    Values that are NaN on either side are left out. None where the baseline's gap isn't surely above 0: then the judge
    doesn't read prompts, or the baseline doesn't follow them.
    """
    own, theirs = np.asarray(policy, np.float64), np.asarray(base, np.float64)
    known = ~(np.isnan(own) | np.isnan(theirs))
    names = [name for name, k in zip(prompts, known, strict=True) if k]
    if len(set(names)) < 2:
        return None
    table = bootstrap.sums([own[known], theirs[known]], names)
    least, _ = bootstrap.percentile(table, lambda totals: totals[..., 1], **interval.how)
    if least <= 0:
        return None

    def share(totals: Floats) -> Floats:
        positive = totals[..., 1] > 0
        return np.where(positive, totals[..., 0] / np.where(positive, totals[..., 1], 1), np.nan)

    low, high = bootstrap.bca(table, share, **interval.how)
    return float(share(table.sum(axis=0))), low, high


def drift(policy: Floats, base: Floats, prompts: Sequence[int], interval: Interval) -> Bounds | None:
    """Returns the median difference of a figure of images [N] in robust standard deviations of the baseline's.

    Images are paired; the unit is 1.4826 times the median absolute deviation over the baseline's images. The interval
    is the percentile one over prompts. None where the baseline's figure doesn't vary.
    """
    unit = 1.4826 * float(np.median(np.abs(base - np.median(base))))
    if not unit > 0:
        return None
    difference = (policy - base) / unit
    found = medians(difference, prompts, interval)
    tail = (1 - interval.confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(np.median(difference)), float(low), float(high)


def tint(policy: Floats, base: Floats, prompts: Sequence[int], interval: Interval) -> Bounds:
    """Returns how far the mean cast of images [N, 3] has moved from the baseline's, in levels of 255: its length.

    Casts in many directions, such as objects of every colour drawn more vividly, cancel; one over all images doesn't.
    The interval is the percentile one over prompts.
    """
    moved = (policy - base)[np.argsort(prompts, kind="stable")].reshape(len(set(prompts)), -1, 3).mean(axis=1)
    K = len(moved)
    weights = np.random.default_rng(interval.seed).multinomial(K, np.full(K, 1 / K), interval.resamples) / K
    tail = (1 - interval.confidence) / 2
    low, high = np.quantile(np.linalg.norm(weights @ moved, axis=1), [tail, 1 - tail])
    return float(np.linalg.norm(moved.mean(axis=0))), float(low), float(high)


def medians(values: Floats, prompts: Sequence[int], interval: Interval) -> Floats:
    """Returns the medians [R] of values [N] in resamples of whole prompts, which have equally many images each."""
    table = values[np.argsort(prompts, kind="stable")].reshape(len(set(prompts)), -1)
    K, rng, found = len(table), np.random.default_rng(interval.seed), np.empty(interval.resamples)
    rows = max(bootstrap.CELLS // table.size, 1)
    for start in range(0, interval.resamples, rows):
        drawn = rng.integers(K, size=(min(rows, interval.resamples - start), K))
        found[start : start + rows] = np.median(table[drawn].reshape(len(drawn), -1), axis=1)
    return found


def copies(
    generated: Floats, training: Floats, held_out: Floats, prompts: Sequence[int], interval: Interval
) -> Bounds | None:
    """Returns the share of images that are nearer to a training image than `NEAR` of held-out images are.

    Features [N, D] of each. Of images that were made without copying about `NEAR` is expected.
    """
    if not len(training) or not len(held_out):
        return None
    limit = float(np.quantile(looks.nearest(held_out, training), NEAR))
    rate = interval.rate((looks.nearest(generated, training) <= limit).astype(float), prompts)
    return None if rate.rate is None else (rate.rate, rate.low, rate.high)


def ruled(name: str, policy: str, by: str, found: Bounds | None, threshold: float) -> Alarm:
    """Returns an alarm with its verdict: raised where the figure's interval, or the figure without one, lies beyond."""
    if found is None:
        return Alarm(
            name=name, policy=policy, by=by, figure=None, low=None, high=None, threshold=threshold, verdict="missing"
        )
    figure, low, high = found
    ends = (figure if low is None else low, figure if high is None else high)
    verdict = "raised" if BEYOND[name](*ends, threshold) else "quiet"
    return Alarm.model_validate(
        {"name": name, "policy": policy, "by": by, "figure": figure, "low": low, "high": high}
        | {"threshold": threshold, "verdict": verdict}
    )


def below(low: float, high: float, threshold: float) -> bool:
    """Tells whether all of an interval lies below a threshold."""
    return high < threshold


def above(low: float, high: float, threshold: float) -> bool:
    """Tells whether all of an interval lies above a threshold."""
    return low > threshold


def outside(low: float, high: float, threshold: float) -> bool:
    """Tells whether all of an interval lies above a threshold, or below its negative."""
    return low > threshold or high < -threshold


BEYOND: dict[str, Callable[[float, float, float], bool]] = {
    "hacking": below,
    "diversity": below,
    "vendi": below,
    "alignment": below,
    "saturation": outside,
    "contrast": outside,
    "sharpness": outside,
    "tint": above,
    "copies": above,
}
"""Of each alarm when an interval is beyond its threshold; thresholds have these names in `evaluate.alarms`."""
