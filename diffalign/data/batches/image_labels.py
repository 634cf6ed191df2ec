"""Labels of single images, made from comparisons: which images raters liked or disliked for a prompt."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from diffalign.data.batches.pairs import Rule, select
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged, allowed, barred

VOTES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5), "both_bad": (0.0, 0.0)}
"""The votes of each answer for image a and for image b."""


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """Labels an image as liked or disliked for a prompt."""

    prompt: str
    image: str
    desirable: bool


def image_labels(
    table: pa.Table, split: Split, rule: Rule = "each", raters: Collection[str] = (), flagged: Flagged = "keep"
) -> list[ImageLabel]:
    """Returns a label for each prompt and image of a split, in the order of both; the order of rows doesn't matter.

    An image gets a vote of 1 from an answer that prefers it, 0 from one that prefers the other image or says that both
    are bad, 1/2 from a tie; `none` is no vote. Rule `each`: desirable if preferred at least once, undesirable if it
    was voted down and never preferred, no opinion where there are but ties (as published, Li et al. 2024, arXiv
    2404.04465, sec. 5). Rule `majority`: desirable above a mean vote of 1/2, undesirable below it, no opinion at 1/2.
    `raters`, `flagged` and the UserError as in `pairs.make_pairs`.
    """
    table = allowed(select(table, split, raters), flagged)
    undesired = barred(table, flagged)
    votes: dict[tuple[str, str], list[float]] = defaultdict(list)
    columns = (table[name].to_pylist() for name in ("prompt", "image_a", "image_b", "answer"))
    for prompt, a, b, answer in zip(*columns, strict=True):
        if answer in VOTES:
            for image, vote in zip((a, b), VOTES[answer], strict=True):
                votes[prompt, image].append(vote)
    found = []
    for (prompt, image), given in sorted(votes.items()):
        score = max(given, key=lambda vote: (vote != 0.5, vote)) if rule == "each" else sum(given) / len(given)
        if score < 0.5 or (score > 0.5 and image not in undesired):
            found.append(ImageLabel(prompt, image, score > 0.5))
    return found
