"""Makes pairs of comparisons: the rule, which raters, and what a pair counts.

Apart from the comparisons' table, so that another rule or weight ingests and encodes nothing again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged, allowed, barred

Rule = Literal["each", "majority"]
Weight = Literal["prompt", "strength", "rater"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds a winner and a loser for a prompt; `strength` in [0.5, 1] is the winner's share of the votes.

    `weight` is what the pair counts in a loss, 1 on average.
    """

    pair_id: str
    prompt: str
    image_w: str
    image_l: str
    strength: float
    weight: float


def make_pairs(
    table: pa.Table,
    split: Split,
    rule: Rule = "each",
    raters: Collection[str] = (),
    weights: Collection[Weight] = (),
    flagged: Flagged = "keep",
) -> list[Pair]:
    """Returns the pairs of a split, ordered by `pair_id`, whatever the order of the table's rows.

    Rule `each`: every answer a or b is a pair of strength 1, named by its comparison. Rule `majority`: the answers to
    the same prompt and two images, whichever side they were on, make one pair; `strength` is the winner's share, a tie
    counting half for each, and equal shares make no pair. `both_bad` and `none` make none. `raters`: only answers of
    these; empty: of all. A pair's weight is the product of the `weights`, divided by its mean over these pairs:
    `prompt`, 1 / pairs of its prompt (PickScore's; Kirstain et al. 2023, arXiv 2305.01569); `strength`, 2 s - 1, which
    is 0 for a toss-up; `rater`, 1 / pairs of its rater, with rule `each`. `flagged`: what becomes of what filters
    flagged (`filters/flags.py`), after the votes were counted. Raises UserError for a rater who isn't in the table, and
    for `rater` where an answer has none.
    """
    table = allowed(select(table, split, raters), flagged)
    losers = barred(table, flagged)
    found = [pair for pair in (_each(table) if rule == "each" else _majority(table)) if pair.image_w not in losers]
    return _weighted(found, table, weights) if weights and found else found


def held_out_pairs(table: pa.Table, split: Split, rule: Rule, raters: Collection[str]) -> list[Pair]:
    """Returns the pairs of a split ordered by the hash of their ids: the first n are a fixed sample, whatever n is."""
    found = make_pairs(table, split, rule, raters)
    return sorted(found, key=lambda pair: sha256_bytes(pair.pair_id.encode()))


def select(table: pa.Table, split: Split, raters: Collection[str] = ()) -> pa.Table:
    """Returns the rows of a split in the order of comparison_id, by these raters only; empty: by all raters.

    Raises UserError for a rater who isn't in the table.
    """
    if raters:
        unknown = sorted(set(raters).difference(table["rater_id"].unique().to_pylist()))
        if unknown:
            raise UserError(f"pairs.raters: expected raters of the comparisons, found none named {', '.join(unknown)}")
        table = table.filter(pc.is_in(table["rater_id"], value_set=pa.array(list(raters), pa.string())))
    return table.filter(pc.equal(table["split"], split)).sort_by("comparison_id")


def _each(table: pa.Table) -> list[Pair]:
    table = table.filter(pc.is_in(table["answer"], value_set=pa.array(["a", "b"])))
    return [
        Pair(comparison, prompt, *((a, b) if answer == "a" else (b, a)), strength=1.0, weight=1.0)
        for comparison, prompt, a, b, answer in _answers(table)
    ]


def _majority(table: pa.Table) -> list[Pair]:
    """Returns one pair per prompt and two images, for rows in the order of comparison_id; the first row names it."""
    share_of_a = {"a": 1.0, "tie": 0.5, "b": 0.0}
    table = table.filter(pc.is_in(table["answer"], value_set=pa.array(list(share_of_a))))
    groups: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for comparison, prompt, a, b, answer in _answers(table):
        first, second, share = (a, b, share_of_a[answer]) if a < b else (b, a, 1 - share_of_a[answer])
        groups[prompt, first, second].append((comparison, share))
    found = []
    for (prompt, first, second), votes in groups.items():
        share = sum(vote for _, vote in votes) / len(votes)
        if share != 0.5:
            winner, loser = (first, second) if share > 0.5 else (second, first)
            found.append(Pair(votes[0][0], prompt, winner, loser, strength=max(share, 1 - share), weight=1.0))
    return found


def _weighted(found: list[Pair], table: pa.Table, weights: Collection[Weight]) -> list[Pair]:
    """Returns the pairs with their weights, whose mean is 1; with rule `each` a pair's rater is its comparison's."""
    raw = [1.0] * len(found)
    if "prompt" in weights:
        raw = _over_count(raw, [pair.prompt for pair in found])
    if "strength" in weights:
        raw = [value * (2 * pair.strength - 1) for value, pair in zip(raw, found, strict=True)]
    if "rater" in weights:
        rater_of = dict(zip(table["comparison_id"].to_pylist(), table["rater_id"].to_pylist(), strict=True))
        raters = [rater_of[pair.pair_id] for pair in found]
        if None in raters:
            raise UserError(
                f"pairs.weights: rater expects a rater for every answer, {raters.count(None):,} of {len(raters):,} "
                "have none. Take rater out of pairs.weights, or name those to learn from in pairs.raters."
            )
        raw = _over_count(raw, raters)
    mean = sum(raw) / len(raw)
    return [replace(pair, weight=value / mean) for pair, value in zip(found, raw, strict=True)]


def _over_count(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Divides each value by the size of its group."""
    counts = Counter(groups)
    return [value / counts[group] for value, group in zip(values, groups, strict=True)]


def _answers(table: pa.Table) -> Iterator[tuple[str, ...]]:
    """Yields (comparison_id, prompt, image_a, image_b, answer) of each row."""
    names = ("comparison_id", "prompt", "image_a", "image_b", "answer")
    return zip(*(_shared(table[name]) for name in names), strict=True)


def _shared(column: pa.ChunkedArray) -> Sequence[str]:
    """Returns a column as a list in which equal texts are one object, to save memory: prompts and images repeat."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [values[i] for i in encoded.indices.to_pylist()]
