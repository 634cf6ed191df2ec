"""Comparisons of a policy's own images: which are compared, and which people or a reward prefer."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from diffalign.data import votes as records
from diffalign.data.votes import Question, Vote
from diffalign.evaluation.relabel import answer

Answer = Literal["a", "b", "tie"]
Rule = Literal["best_worst", "all_pairs"]


@dataclass(frozen=True)
class Labelled:
    """The numbers of two images of a prompt, as shown, and the answer."""

    a: int
    b: int
    answer: Answer


def compared(
    scores: Sequence[float], rule: Rule, temperature: float | None, key: tuple[int, ...]
) -> Iterator[Labelled]:
    """Yields the comparisons of a prompt's images by their scores, without those whose score is NaN.

    `best_worst`: the highest against the lowest score; `all_pairs`: each against each. Which is shown as a, and what a
    simulated rater answers, depend on `key` only: a is preferred with probability 1 / (1 + exp(-(s_a - s_b) /
    temperature)) (Bradley-Terry); without a temperature the higher score wins, and equal scores tie.
    """
    rng = np.random.default_rng(key)
    known = sorted((i for i, score in enumerate(scores) if not np.isnan(score)), key=lambda i: (scores[i], i))
    pairs = list(combinations(known, 2)) if rule == "all_pairs" else [(known[0], known[-1])] if known[1:] else []
    for low, high in pairs:
        swapped, noise = rng.random() < 0.5, rng.logistic()
        a, b = (high, low) if swapped else (low, high)
        gap = 0.0 if temperature is None else float(noise) * temperature
        found = answer(scores[a] + gap, scores[b], 0.0)
        assert found in ("a", "b", "tie"), found
        yield Labelled(a, b, found)


def heard(
    votes: Sequence[Vote], images: Collection[str], question: Question, repeats: bool
) -> tuple[list[Vote], Counter[str]]:
    """Returns people's answers to a question about these images, each once, and why how many others don't count.

    `repeats`: a rater's second answer to a pair counts, too. Checks of attention are no answers; who failed them is
    left out (`votes.RULE`).
    """
    failed, found, left = records.failed_raters(votes), dict[str, Vote](), Counter[str]()
    for vote in votes:
        if vote.kind in records.CHECKS or vote.question != question:
            continue
        reasons = {
            "skipped": vote.answer == "skip",
            "of raters who failed the checks": vote.rater_id in failed,
            "on images that aren't there any more": not {vote.image_a, vote.image_b} <= set(images),
            "second answers to a pair (data.repeats: first)": vote.kind == "repeat" and not repeats,
        }
        if why := next((why for why, holds in reasons.items() if holds), None):
            left[why] += 1
        else:
            found[vote.vote_id] = vote
    return list(found.values()), left
