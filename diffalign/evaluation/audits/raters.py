"""Whose preference was learned: how often a policy's implicit reward, or a judge, agrees with each group of raters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from diffalign.evaluation.audits import differences
from diffalign.evaluation.audits.findings import Agreement, Composition
from diffalign.evaluation.audits.safety import estimated
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval


@dataclass(frozen=True)
class Answers:
    """Held-out pairs [N] whose rater is known and in a group, and how many training pairs each rater answered."""

    prompts: Sequence[str]
    raters: Sequence[str]
    groups: Sequence[str]
    trained: Mapping[str, int]


def group_of(rater: str, patterns: Mapping[str, Sequence[str]]) -> str | None:
    """Returns the first group with a pattern, such as `1*`, that fits a rater's id; None without one."""
    return next((name for name, own in patterns.items() if any(fnmatchcase(rater, one) for one in own)), None)


def answers(
    prompts: Sequence[str],
    raters: Sequence[str | None],
    trained: Mapping[str, int],
    patterns: Mapping[str, Sequence[str]],
) -> tuple[Answers, list[int], list[str]]:
    """Returns the answers whose rater is in a group, which pairs these are, and the raters without a group."""
    groups = [None if rater is None else group_of(rater, patterns) for rater in raters]
    kept = [i for i, group in enumerate(groups) if group is not None]
    without = sorted({str(rater) for rater, group in zip(raters, groups, strict=True) if group is None})
    chosen = Answers(
        [prompts[i] for i in kept], [str(raters[i]) for i in kept], [str(groups[i]) for i in kept], trained
    )
    return chosen, kept, without


def compose(
    name: str, kind: Literal["policy", "judge"], outcomes: Floats, answers: Answers, how: Interval
) -> Composition:
    """Says how often pairs are ranked as raters did, by group and by rater: outcomes [N], 1, 0.5 at a tie, 0, or NaN.

    Pairs without an outcome, NaN, are left out. The gap needs two groups of two raters or more.
    """
    known = np.flatnonzero(~np.isnan(outcomes)).tolist()
    right, raters = outcomes[known], [answers.raters[i] for i in known]
    groups, prompts = [answers.groups[i] for i in known], [answers.prompts[i] for i in known]
    member = dict(zip(raters, groups, strict=True))
    counted = Counter(dict.fromkeys(groups, 0))
    for rater, group in member.items():
        counted[group] += answers.trained.get(rater, 0)
    asked = np.array([*Counter(raters).values()], np.float64)
    agreed = differences.by_cluster(right, raters) * asked if raters else asked
    own = [member[rater] for rater in dict.fromkeys(raters)]
    testable = len(set(own)) > 1 and min(Counter(own).values()) > 1
    return Composition(
        name=name,
        kind=kind,
        groups=[
            _agreement(group, sum(g == group for g in own), counted[group], right, groups, prompts, how)
            for group in dict.fromkeys(sorted(groups))
        ],
        raters=[
            _agreement(rater, 1, answers.trained.get(rater, 0), right, raters, prompts, how)
            for rater in dict.fromkeys(sorted(raters))
        ],
        gap=estimated(
            differences.gap(agreed, asked, own, how.confidence, how.resamples, how.seed) if testable else None
        ),
        p=differences.gap_p(agreed, asked, own, how.resamples, how.seed) if testable else None,
    )


def _agreement(
    name: str, count: int, trained: int, right: Floats, of: Sequence[str], prompts: Sequence[str], how: Interval
) -> Agreement:
    """Returns the rate among the pairs that `of` gives to a group or a rater."""
    chosen = [i for i, one in enumerate(of) if one == name]
    rate = how.rate(right[chosen], [prompts[i] for i in chosen])
    return Agreement(
        raters=name, count=count, pairs=len(chosen), trained_pairs=trained, rate=rate.rate, low=rate.low, high=rate.high
    )
