"""Makes preferences of comparisons: for two images of a prompt the share of votes for the first, ties among them.

Reward models learn from these; `pairs.py` has what policies learn from, without ties.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from diffalign.data.batches.pairs import Rule, select
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged, allowed, barred

VOTES = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""The vote of each answer for image a; `both_bad` and `none` are no votes."""


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
) -> list[Preference]:
    """Returns the preferences of a split in the order of comparison_id, whatever the order of the table's rows.

    Rule `each`: every answer a, b or tie is one, with a share of 1, 0 or 1/2. Rule `majority`: the votes for the same
    prompt and two images, whichever side they were on, are one. Without `ties` those with a share of 1/2 are left out.
    `by_prompt`: the weight is 1 / preferences of the prompt over its mean (PickScore's; Kirstain et al. 2023, arXiv
    2305.01569), else 1. `raters`, `flagged` and the UserError as in `pairs.make_pairs`: an image that may only lose is
    in no tie.
    """
    table = allowed(select(table, split, raters), flagged)
    losers = barred(table, flagged)
    columns = (table[name].to_pylist() for name in ("prompt", "image_a", "image_b", "answer"))
    votes: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for row, (prompt, a, b, answer) in enumerate(zip(*columns, strict=True)):
        if answer in VOTES and rule == "each":
            votes[prompt, a, b, row].append(VOTES[answer])
        elif answer in VOTES:
            first, second, vote = (a, b, VOTES[answer]) if a < b else (b, a, 1 - VOTES[answer])
            votes[prompt, first, second].append(vote)
    shares = {key: sum(given) / len(given) for key, given in votes.items()}
    kept = [
        (str(prompt), str(first), str(second), share)
        for (prompt, first, second, *_), share in shares.items()
        if (ties or share != 0.5) and not (first in losers and share >= 0.5) and not (second in losers and share <= 0.5)
    ]
    counts = Counter(prompt for prompt, *_ in kept)
    mean = len(counts) / max(len(kept), 1)  # of 1 / count over the preferences
    return [
        Preference(prompt, first, second, share, 1 / counts[prompt] / mean if by_prompt else 1.0)
        for prompt, first, second, share in kept
    ]
