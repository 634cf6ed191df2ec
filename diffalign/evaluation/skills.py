"""Rates of a judge's skills: how often each policy's images answer its yes/no questions right, skill by skill."""

from collections.abc import Iterator, Mapping

import numpy as np

from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Skill
from diffalign.evaluation.scores import Columns
from diffalign.evaluation.statistics import cluster_interval
from diffalign.generation.gallery import Gallery

SKILLS = ("object", "count", "colour", "position", "binding")
"""A judge's part that is named after it and one of these (oracle_count) is a share of questions, in [0, 1]."""


def rates(
    galleries: Mapping[str, Gallery], scores: Mapping[str, Mapping[str, Columns]], interval: Interval
) -> list[Skill]:
    """Lists every policy's rate of every skill that a judge scored; `scores` by judge, then by policy.

    An image's value is the share of its questions that are answered right; images without a question are left out.
    Intervals are clustered by prompt.
    """
    return [
        _rate(policy, judge, skill, galleries[policy], of_policies[policy], interval)
        for judge, of_policies in scores.items()
        for policy in galleries
        for skill in _asked(judge, of_policies[policy])
    ]


def _asked(judge: str, columns: Columns) -> Iterator[str]:
    """Yields the skills that a judge has scores of, for any image."""
    for skill in SKILLS:
        values = columns.get(f"{judge}_{skill}")
        if values is not None and not np.isnan(values).all():
            yield skill


def _rate(policy: str, judge: str, skill: str, gallery: Gallery, columns: Columns, interval: Interval) -> Skill:
    values = columns[f"{judge}_{skill}"]
    known = ~np.isnan(values)
    prompts = [entry.prompt_index for entry, kept in zip(gallery.entries, known, strict=True) if kept]
    low, high = cluster_interval(
        values[known], prompts, resamples=interval.resamples, confidence=interval.confidence, seed=interval.seed
    )
    return Skill(
        policy=policy,
        scorer=judge,
        skill=skill,
        share=float(values[known].mean()),
        ci_low=low,
        ci_high=high,
        images=int(known.sum()),
        prompts=len(set(prompts)),
    )
