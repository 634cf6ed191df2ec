"""Win rates of policies' images over a baseline's, image by image, as judges scored them."""

import sys
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from diffalign.evaluation import statistics
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Comparison
from diffalign.evaluation.scores import Columns
from diffalign.generation.gallery import Entry, Gallery


def compare(
    policy: str,
    baseline: str,
    scorer: str,
    entries: Sequence[Entry],
    scores: ArrayLike,
    base: ArrayLike,
    interval: Interval,
) -> Comparison:
    """Counts wins, ties, losses and the win rate (W + T/2) / N of scores [N] over the baseline's [N], image by image.

    Images whose score is NaN on either side are left out; `prompts` counts those that are judged.
    """
    rate = interval.rate(statistics.outcomes(scores, base), [entry.prompt_index for entry in entries])
    return Comparison(
        policy=policy,
        baseline=baseline,
        scorer=scorer,
        prompts=rate.clusters,
        seeds=len({entry.seed for entry in entries}),
        wins=rate.wins,
        ties=rate.ties,
        losses=rate.losses,
        win_rate=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
    )


def over_baseline(
    baseline: str, galleries: Mapping[str, Gallery], scores: Mapping[str, Mapping[str, Columns]], interval: Interval
) -> list[Comparison]:
    """Compares every policy with the baseline by every judge; `scores` by judge, then by policy."""
    contests = [(name, baseline) for name in galleries if name != baseline]
    return _all(contests, galleries, scores, interval)


def head_to_heads(
    trained: Sequence[str],
    baseline: str,
    galleries: Mapping[str, Gallery],
    scores: Mapping[str, Mapping[str, Columns]],
    interval: Interval,
) -> list[Comparison]:
    """Compares the first trained policy with each other trained one by every judge; the baseline isn't among them."""
    rivals = [name for name in trained if name != baseline]
    return _all([(rivals[0], other) for other in rivals[1:]], galleries, scores, interval)


def _all(
    contests: Sequence[tuple[str, str]],
    galleries: Mapping[str, Gallery],
    scores: Mapping[str, Mapping[str, Columns]],
    interval: Interval,
) -> list[Comparison]:
    """Compares pairs of policies, by every judge each."""
    return [
        compare(a, b, judge, galleries[a].entries, of_policies[a][judge], of_policies[b][judge], interval)
        for a, b in contests
        for judge, of_policies in scores.items()
    ]


def say_missing(row: Comparison, asked: int) -> None:
    """Says on stderr how many of the images that a comparison was asked for its judge couldn't score."""
    if row.judged < asked:
        sys.stderr.write(
            f"evaluate: {row.scorer} can't judge {asked - row.judged} of {asked} images of {row.policy} against "
            f"{row.baseline}: left out\n"
        )
