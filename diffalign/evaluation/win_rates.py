"""Win rates of policies' images over a baseline's, image by image, as judges scored them.

Images are paired by their slot, (prompt, seed); from the same noise where their policies' `noise_seed` is equal.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffalign.evaluation import significance, statistics
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import CategoryRate, Comparison, Learnt, OverSeeds
from diffalign.evaluation.scores import Columns
from diffalign.evaluation.seeds import p_over_seeds, rate_over_seeds
from diffalign.evaluation.statistics import Rate
from diffalign.generation import gallery
from diffalign.generation.gallery import Gallery

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Judged:
    """All policies' images, their scores, and what is known of judges and policies."""

    galleries: Mapping[str, Gallery]
    """By policy; all have images at the same slots."""
    scores: Mapping[str, Mapping[str, Columns]]
    """By judge, then by policy."""
    interval: Interval
    bands: Mapping[str, float]
    """Of each judge the difference of scores up to which they tie."""
    families: Mapping[str, Sequence[str]]
    """Of each judge what it learnt from."""
    policies: Mapping[str, Learnt]

    def slots(self, name: str) -> dict[str, Indices]:
        """Returns of each set of prompts the indices of its images, in a policy's gallery."""
        sets = [entry.set for entry in self.galleries[name].entries]
        return {one: np.flatnonzero([s == one for s in sets]) for one in dict.fromkeys(sets)}

    def prompts(self, at: Indices) -> list[int]:
        """Returns the prompt's index of each image."""
        entries = next(iter(self.galleries.values())).entries
        return [entries[i].prompt_index for i in at]

    def outcomes(self, a: str, b: str, judge: str, at: Indices, part: str | None = None) -> Floats:
        """Returns the outcomes of one policy's images against another's, by a judge's own score or by a part of it."""
        first, second = (self.scores[judge][name][part or judge][at] for name in (a, b))
        return statistics.outcomes(first, second, self.bands[judge])


def over_baseline(baseline: str, judged: Judged) -> list[Comparison]:
    """Compares every policy with the baseline by every judge over every set of prompts."""
    return _all([(name, baseline) for name in judged.galleries if name != baseline], judged)


def head_to_heads(trained: Sequence[str], baseline: str, judged: Judged) -> list[Comparison]:
    """Compares the first trained policy with each other trained one by every judge; the baseline isn't among them."""
    rivals = [name for name in trained if name != baseline]
    return _all([(rivals[0], other) for other in rivals[1:]], judged)


def compare(policy: str, baseline: str, judge: str, at: Indices, judged: Judged) -> Comparison:
    """Compares two policies' images [N] at the indices `at` of their galleries; images without a score are left out.

    `p_holm` is `p`: it takes the other comparisons to adjust it.
    """
    entries = [judged.galleries[policy].entries[i] for i in at]
    results, prompts = judged.outcomes(policy, baseline, judge, at), judged.prompts(at)
    a, b = (judged.galleries[name] for name in (policy, baseline))
    own, theirs = (judged.scores[judge][name][judge][at] for name in (policy, baseline))
    effect = judged.interval.effect(own, theirs, prompts)
    p = significance.sign_flip_p(results, prompts)
    learnt = {tag for name in (policy, baseline) for tag in judged.policies[name].families}
    return Comparison(
        policy=policy,
        **counted(judged.interval.rate(results, prompts), baseline, judge, entries[0].set),
        seeds=len({entry.seed for entry in entries}),
        p=p,
        p_holm=p,
        effect=effect.value,
        effect_low=effect.low,
        effect_high=effect.high,
        same_noise=a.noise == b.noise,
        differs=tuple(key for key in gallery.MADE if a.made[key] != b.made[key]),
        in_family=bool(learnt & set(judged.families[judge])),
    )


def by_category(baseline: str, judged: Judged) -> list[CategoryRate]:
    """Returns the win rates over the baseline of each category of each set, in the order of the prompts."""
    return [
        CategoryRate(policy=policy, category=category, **counted(rate, baseline, judge, name))
        for policy, judge, name, at in _contests(baseline, judged)
        for category, rate in _rates(policy, baseline, judge, at, judged)
    ]


def over_seeds(groups: Sequence[tuple[str, ...]], baseline: str, judged: Judged) -> list[OverSeeds]:
    """Returns the win rates over the baseline of groups of trainings that differ in their seed only."""
    found = []
    for group in groups:
        for judge in judged.scores:
            for name, at in judged.slots(baseline).items():
                results = np.stack([judged.outcomes(policy, baseline, judge, at) for policy in group])
                prompts = judged.prompts(at)
                rate = rate_over_seeds(results, prompts, confidence=judged.interval.confidence)
                p = p_over_seeds(results, prompts)
                found.append(OverSeeds(policies=group, p=p, **counted(rate, baseline, judge, name)))
    return found


def same_but_seed(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the groups, of two or more, of policies whose settings are equal but for their `seed`."""
    found: dict[str, list[str]] = {}
    for name, values in settings.items():
        if values.get("seed") is not None:
            found.setdefault(repr(sorted((k, v) for k, v in values.items() if k != "seed")), []).append(name)
    return [tuple(names) for names in found.values() if len({settings[n]["seed"] for n in names}) == len(names) > 1]


def counted(rate: Rate, baseline: str, judge: str, of: str) -> dict[str, Any]:
    """Returns a rate as `results.Counts` has it."""
    return {
        "baseline": baseline,
        "scorer": judge,
        "set": of,
        "prompts": rate.clusters,
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
        "win_rate": rate.rate,
        "ci_low": rate.low,
        "ci_high": rate.high,
    }


def say_missing(row: Comparison, judged: Judged) -> None:
    """Says on stderr how many of the images that a comparison was asked for its judge couldn't score."""
    asked = len(judged.slots(row.policy)[row.set])
    if row.judged < asked:
        sys.stderr.write(
            f"evaluate: {row.scorer} can't judge {asked - row.judged} of {asked} images of {row.policy} against "
            f"{row.baseline}: left out\n"
        )


def _all(contests: Sequence[tuple[str, str]], judged: Judged) -> list[Comparison]:
    """Compares pairs of policies, by every judge over every set each, with Holm's adjustment among these."""
    found = []
    for a, b in contests:
        sets = judged.slots(b)
        rows = [compare(a, b, judge, at, judged) for judge in judged.scores for at in sets.values()]
        adjusted = significance.holm([row.p for row in rows])
        found += [row.model_copy(update={"p_holm": p}) for row, p in zip(rows, adjusted, strict=True)]
    return found


def _contests(baseline: str, judged: Judged) -> Iterator[tuple[str, str, str, Indices]]:
    """Yields every policy but the baseline with every judge, every set, and the indices of the set's images."""
    for policy in judged.galleries:
        if policy != baseline:
            for judge in judged.scores:
                for name, at in judged.slots(baseline).items():
                    yield policy, judge, name, at


def _rates(policy: str, baseline: str, judge: str, at: Indices, judged: Judged) -> Iterator[tuple[str, Rate]]:
    """Yields the win rate of each category of a set's images."""
    categories = [judged.galleries[policy].entries[i].category for i in at]
    for category in dict.fromkeys(categories):
        if category is not None:
            own = at[[one == category for one in categories]]
            results = judged.outcomes(policy, baseline, judge, own)
            yield category, judged.interval.rate(results, judged.prompts(own))
