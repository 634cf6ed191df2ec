"""Makes pairs of comparisons: the rule, which raters, and what a pair counts.

Apart from the comparisons' table, so that another rule or weight ingests and encodes nothing again.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.batches.votes import ALL_AXES, ALL_SOURCES, Axes, Sources, Vote, cast, select
from diffalign.data.comparisons.table import Split
from diffalign.data.filters.flags import Flagged, allowed, barred

Rule = Literal["each", "majority"]
Weight = Literal["prompt", "strength", "rater"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds a winner and a loser for a prompt; `strength` in [0.5, 1] is the winner's share of the votes.

    At 0.5 they tie: half a win for each, whose loss in Bradley and Terry's model has no gradient at margin 0 and pulls
    to it elsewhere; Rao and Kupper's tie is twice that as their threshold falls to 1 (Chen et al. 2024, arXiv
    2409.17431). `weight` is what the pair counts in a loss, 1 on average.
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
    axes: Axes = ALL_AXES,
    ties: bool = False,
    sources: Sources = ALL_SOURCES,
) -> list[Pair]:
    """Returns the pairs of a split, ordered by `pair_id`, whatever the order of the table's rows.

    Rule `each`: every comparison is a pair, named by it. Rule `majority`: the comparisons of the same prompt and two
    images, whichever side they were on, make one pair, each with its votes times its axis's weight. `strength` is the
    winner's share of the votes, 1 for a single answer; `both_bad` and `none` are no votes. A share of 1/2 makes no
    pair, or, with `ties`, one of strength 1/2, whose winner is the first image or, by majority, that with the lower
    SHA-256. `raters`, `axes`: only answers of these; empty: all.

    A pair's weight is that of its comparisons (`votes.cast`: axes, sources, rankings; by majority their mean) times the
    `weights`, divided by its mean over these pairs: `prompt`, 1 / pairs of its prompt (PickScore's; Kirstain et al.
    2023, arXiv 2305.01569); `strength`, 2 s - 1, which is 0 for a toss-up; `rater`, 1 / pairs of its rater, with rule
    `each`. `flagged`: what becomes of what filters flagged (`filters/flags.py`), after the votes were counted. Raises
    UserError for a rater, an axis or a source that isn't in the table, for `rater` where an answer has none, and for
    `strength` with rule `each` where all pairs have strength 1.
    """
    if unknown := sorted(set(sources).difference(table["source"].unique().to_pylist())):
        raise UserError(f"pairs.sources: expected sources of the comparisons, found none named {', '.join(unknown)}")
    table = allowed(select(table, split, raters, axes), flagged)
    losers = barred(table, flagged)
    each = rule == "each"
    votes = cast(table, axes, ties or not each, sources)
    found = _each(votes) if each else _majority(votes, ties)
    found = [pair for pair in found if losers.isdisjoint(may_win(pair))]
    if rule == "each" and "strength" in weights and all(pair.strength == 1 for pair in found):
        raise UserError("pairs.weights: strength expects shares of votes with rule each, every answer is a single one")
    return _weighted(found, table, weights) if found else found


def held_out_pairs(
    table: pa.Table, split: Split, rule: Rule, raters: Collection[str], axes: Axes = ALL_AXES
) -> list[Pair]:
    """Returns the untied pairs of a split by the hash of their ids: the first n are a fixed sample, whatever n is."""
    found = make_pairs(table, split, rule, raters, axes=axes)
    return sorted(found, key=lambda pair: sha256_bytes(pair.pair_id.encode()))


def may_win(pair: Pair) -> tuple[str, ...]:
    """Returns the images that a pair pulls up: the winner, and both of a tie."""
    return (pair.image_w, pair.image_l) if pair.strength == 0.5 else (pair.image_w,)


def _each(votes: Sequence[Vote]) -> list[Pair]:
    return [_pair(one.comparison_id, one.prompt, one.image_a, one.image_b, one.share, one.weight) for one in votes]


def _majority(votes: Sequence[Vote], ties: bool) -> list[Pair]:
    """Returns one pair per prompt and two images, for votes in the order of comparison_id; the first names it."""
    groups: dict[tuple[str, str, str], list[tuple[Vote, float]]] = defaultdict(list)
    for vote in votes:
        swapped = vote.image_b < vote.image_a
        first, second = (vote.image_b, vote.image_a) if swapped else (vote.image_a, vote.image_b)
        groups[vote.prompt, first, second].append((vote, 1 - vote.share if swapped else vote.share))
    found = []
    for (prompt, first, second), given in groups.items():
        heard = sum(vote.heard for vote, _ in given)
        share = sum(vote.heard * share for vote, share in given) / heard
        weight = sum(vote.votes * vote.weight for vote, _ in given) / heard
        if ties or share != 0.5:
            found.append(_pair(given[0][0].comparison_id, prompt, first, second, share, weight))
    return found


def _pair(pair_id: str, prompt: str, first: str, second: str, share: float, weight: float) -> Pair:
    """Returns the pair of two images, of which the first has this share of the votes."""
    winner, loser = (first, second) if share >= 0.5 else (second, first)
    return Pair(pair_id, prompt, winner, loser, max(share, 1 - share), weight)


def _weighted(found: list[Pair], table: pa.Table, weights: Collection[Weight]) -> list[Pair]:
    """Returns the pairs with their weights times `weights`, and mean 1; with rule `each` a pair has one rater."""
    raw = [pair.weight for pair in found]
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
