"""Answers comparisons with a reward instead of raters: AI feedback. A tie is where scores hardly differ."""

import math
from collections.abc import Collection, Mapping

import pyarrow as pa

from diffalign.data.comparisons.table import Answer, Split
from diffalign.evaluation.score_cache import Key

Scores = Mapping[Key, float]
"""By (image, prompt)."""
VOTED = ("share", "votes", "axis", "rater_group")
"""What a comparison says of raters' votes, beside the answer."""


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
