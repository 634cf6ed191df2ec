"""Comparisons of a policy's own images: which are compared, and which a reward, or raters who follow it, prefer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

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
