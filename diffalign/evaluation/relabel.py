"""Answers comparisons with a reward instead of raters: AI feedback. A tie is where scores hardly differ.

A reward that is several simulated raters answers as each of them, with their noise.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from diffalign.data.comparisons.table import Answer, Split
from diffalign.diffusion.rng import text_seed
from diffalign.evaluation.score_cache import Key

Scores = Mapping[Key, float]
"""By (image, prompt)."""
VOTED = ("share", "votes", "axis", "rater_group")
"""What a comparison says of raters' votes, beside the answer."""


@dataclass(frozen=True)
class Asked:
    """How simulated raters are asked."""

    answers: int
    """Raters a comparison, drawn at random."""
    noise: float
    """Scale of the logistic noise of an answer (Bradley-Terry), in the unit of scores; 0: none."""
    tie_below: float
    """Difference of scores, noise in it, below which they tie."""
    seed: int


def asked(table: pa.Table, splits: Collection[Split]) -> list[Key]:
    """Lists the images, with their prompts, that a reward must score to answer the comparisons of some splits."""
    shown = table.select(["split", "image_a", "image_b", "prompt"]).to_pylist()
    rows = [row for row in shown if row["split"] in splits]
    return [(row[image], row["prompt"]) for image in ("image_a", "image_b") for row in rows]


def relabelled(table: pa.Table, scores: Scores, reward: str, tie_below: float, splits: Collection[Split]) -> pa.Table:
    """Returns the table with the answers of some splits by score: a tie where scores differ by less than `tie_below`.

    The answer is `none` where the reward can't score one of the images. A flag says who answered; nothing is left of
    the raters' votes and of what they were asked.
    """
    rows = table.to_pylist()
    for row in rows:
        if row["split"] in splits:
            a, b = (scores[row[image], row["prompt"]] for image in ("image_a", "image_b"))
            row |= {"answer": answer(a, b, tie_below), **dict.fromkeys(VOTED)}
            row["flags"] = [*(row["flags"] or []), f"answered by {reward}"]
    return pa.Table.from_pylist(rows, schema=table.schema)


def answer(a: float, b: float, tie_below: float) -> Answer:
    """Returns which of two scores is higher, a tie where they differ by less than `tie_below`, `none` with a NaN."""
    if math.isnan(a) or math.isnan(b):
        return "none"
    return "tie" if a == b or abs(a - b) < tie_below else "a" if a > b else "b"


def by_raters(
    table: pa.Table,
    scores: Mapping[Key, Mapping[str, float]],
    raters: Sequence[str],
    how: Asked,
    splits: Collection[Split],
) -> pa.Table:
    """Returns the table with the comparisons of some splits answered by raters: a row a rater, by its own scores.

    `scores` of each image by rater. Who is asked and the noise are functions of the seed and the comparison's id, to
    which the rater's is added. An answer is `none` where a score is missing. The other splits stay.
    """
    found = []
    for row in table.to_pylist():
        if row["split"] not in splits:
            found.append(row)
            continue
        rng = np.random.default_rng((how.seed, text_seed(row["comparison_id"])))
        chosen = sorted(rng.permutation(len(raters))[: how.answers].tolist())
        for rater, noise in zip((raters[i] for i in chosen), rng.logistic(0, 1, len(chosen)).tolist(), strict=True):
            a, b = (scores[row[image], row["prompt"]][rater] for image in ("image_a", "image_b"))
            said = answer(a + noise * how.noise, b, how.tie_below)
            name = f"{row['comparison_id']}-{rater}"
            new = {"comparison_id": name, "answer": said, "rater_id": rater, **dict.fromkeys(VOTED), "ranking": None}
            found.append({**row, **new, "flags": [*(row["flags"] or []), "answered by a simulated rater"]})
    return pa.Table.from_pylist(found, schema=table.schema)
