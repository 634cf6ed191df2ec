"""Labels of single images, made from comparisons: which images raters liked or disliked for a prompt."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from diffalign.data.batches.pairs import Rule
from diffalign.data.batches.votes import ALL_AXES, Axes, cast, select
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged, allowed, barred


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """Labels an image as liked or disliked for a prompt."""

    prompt: str
    image: str
    desirable: bool


def image_labels(
    table: pa.Table,
    split: Split,
    rule: Rule = "each",
    raters: Collection[str] = (),
    flagged: Flagged = "keep",
    axes: Axes = ALL_AXES,
) -> list[ImageLabel]:
    """Returns a label for each prompt and image of a split, in the order of both; the order of rows doesn't matter.

    An image gets its share of each comparison's votes: 1 from an answer that prefers it, 0 from one that prefers the
    other image or says that both are bad, 1/2 from a tie; `none` is no vote. Rule `each`: desirable if preferred by
    more than half at least once, undesirable if it was voted down and never preferred, no opinion where there are but
    ties (as published, Li et al. 2024, arXiv 2404.04465, sec. 5). Rule `majority`: desirable above a mean of 1/2 over
    all votes, times their axes' weights, undesirable below it, no opinion at 1/2. `raters`, `axes`, `flagged` and the
    UserError as in `pairs.make_pairs`.
    """
    table = allowed(select(table, split, raters, axes), flagged)
    undesired = barred(table, flagged)
    found = []
    for (prompt, image), shares in sorted(shares_of_votes(table, axes).items()):
        score = _once(shares) if rule == "each" else _mean(shares)
        if score < 0.5 or (score > 0.5 and image not in undesired):
            found.append(ImageLabel(prompt, image, score > 0.5))
    return found


Shares = dict[tuple[str, str], list[tuple[float, float]]]
"""By prompt and image: the share of each comparison's votes that the image got, and how much that counts."""


def shares_of_votes(table: pa.Table, axes: Axes = ALL_AXES) -> Shares:
    """Returns each image's shares of votes for its prompt, as `image_labels` says, of selected comparisons."""
    given: Shares = defaultdict(list)
    for vote in cast(table, axes):
        given[vote.prompt, vote.image_a].append((vote.share, vote.heard))
        given[vote.prompt, vote.image_b].append((1 - vote.share, vote.heard))
    bad = table.filter(pc.equal(table["answer"], "both_bad"))
    for side in ("image_a", "image_b"):
        for prompt, image, axis in zip(*(bad[name].to_pylist() for name in ("prompt", side, "axis")), strict=True):
            given[prompt, image].append((0.0, axes.get(axis, 1.0)))
    return given


def _once(shares: list[tuple[float, float]]) -> float:
    """Returns the highest share but a half, and a half where there is no other."""
    return max((share for share, _ in shares), key=lambda share: (share != 0.5, share))


def _mean(shares: list[tuple[float, float]]) -> float:
    """Returns the mean of shares, each as often as it's heard."""
    return sum(share * heard for share, heard in shares) / sum(heard for _, heard in shares)
