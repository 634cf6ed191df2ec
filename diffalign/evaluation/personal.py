"""Whose taste a policy met: win rates over the baseline by each simulated rater's, or group's, own utility."""

from collections.abc import Collection, Iterator, Mapping

from diffalign.evaluation import win_rates
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.results import RaterRate
from diffalign.evaluation.win_rates import Indices, Judged

JUDGE = "raters"
"""The reward whose parts are raters: `raters_100` is the score by rater 100."""
Members = Mapping[str, Collection[str]]
"""The ids of the raters that each judging name stands for: its own, or a group's."""


def rates(baseline: str, judged: Judged, members: Members) -> list[RaterRate]:
    """Lists every policy's win rate over the baseline by each rater, over every set of prompts; none without raters."""
    return [
        RaterRate(
            policy=policy,
            rater=rater,
            own=is_own(judged.policies[policy].raters, members[rater]),
            **win_rates.counted(rate, baseline, JUDGE, of),
        )
        for policy, of, at in contests(baseline, judged)
        for rater in members
        for rate in [judged.interval.rate(outcomes(judged, policy, baseline, rater, at), judged.prompts(at))]
    ]


def contests(baseline: str, judged: Judged) -> Iterator[tuple[str, str, Indices]]:
    """Yields every policy but the baseline with every set and its images, where raters judged."""
    for policy in judged.galleries if JUDGE in judged.scores else ():
        if policy != baseline:
            for of, at in judged.slots(baseline).items():
                yield policy, of, at


def outcomes(judged: Judged, policy: str, baseline: str, rater: str, at: Indices) -> Floats:
    """Returns the outcomes of one policy's images against the baseline's by one rater."""
    return judged.outcomes(policy, baseline, JUDGE, at, f"{JUDGE}_{rater}")


def is_own(learnt: Collection[str], judging: Collection[str]) -> bool:
    """Tells whether a policy is of the raters who judge: it learnt from raters of its own, all of them among these."""
    return bool(learnt) and set(learnt) <= set(judging)
