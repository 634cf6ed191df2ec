"""Makes preferences of comparisons: for two images of a prompt the share of votes for the first, ties among them.

Reward models learn from these; `pairs.py` has what policies learn from, without ties.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from diffalign.data.batches.pairs import Pair, Rule, Weight, make_pairs
from diffalign.data.batches.votes import ALL_AXES, ALL_SOURCES, Axes, Sources
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged


@dataclass(frozen=True, slots=True)
class Preference:
    """Two images for a prompt, `share` in [0, 1] of the votes for the first; `weight` in a loss, 1 on average."""

    prompt: str
    first: str
    second: str
    share: float
    weight: float


def make_preferences(
    table: pa.Table,
    split: Split,
    rule: Rule = "each",
    raters: Collection[str] = (),
    *,
    ties: bool = True,
    by_prompt: bool = False,
    flagged: Flagged = "keep",
    axes: Axes = ALL_AXES,
    sources: Sources = ALL_SOURCES,
) -> list[Preference]:
    """Returns the preferences of a split in the order of comparison_id, whatever the order of the table's rows.

    Rule `each`: every comparison with votes is one. Rule `majority`: those of the same prompt and two images, whichever
    side they were on, are one. Without `ties` those with a share of 1/2 are left out. The weight is the pair's, with
    `by_prompt` times 1 / preferences of the prompt (PickScore's; Kirstain et al. 2023, arXiv 2305.01569). `raters`,
    `axes`, `sources`, `flagged` and the UserError as in `pairs.make_pairs`: an image that may only lose is in no tie.
    """
    weights: tuple[Weight, ...] = ("prompt",) if by_prompt else ()
    pairs = make_pairs(table, split, rule, raters, weights, flagged, axes, ties, sources)
    shown = shown_first(table, rule, pairs)
    return [
        Preference(pair.prompt, pair.image_w, pair.image_l, pair.strength, pair.weight)
        if first == pair.image_w
        else Preference(pair.prompt, pair.image_l, pair.image_w, 1 - pair.strength, pair.weight)
        for pair, first in zip(pairs, shown, strict=True)
    ]


def shown_first(table: pa.Table, rule: Rule, pairs: Sequence[Pair]) -> list[str]:
    """Returns each pair's image that was shown first; by majority, where sides differ, that with the lower SHA-256."""
    if rule == "majority":
        return [min(pair.image_w, pair.image_l) for pair in pairs]
    sides = dict(zip(table["comparison_id"].to_pylist(), table["image_a"].to_pylist(), strict=True))
    return [sides[pair.pair_id] for pair in pairs]
