"""Selects comparisons to learn from and reads their votes: the share for image a, and what each comparison counts."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Split

SHARES = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""The share of the votes for image a that an answer is; `both_bad` and `none` are no votes."""
Axes = Mapping[str, float]
"""What comparisons count by the axis that they are about; empty: all axes, each as much."""
ALL_AXES: Axes = MappingProxyType({})
Sources = Mapping[str, float]
"""What comparisons count by their source, 1 for one that isn't named."""
ALL_SOURCES: Sources = MappingProxyType({})


class Vote(NamedTuple):
    """Says what one comparison adds: `share` in [0, 1] of its `votes` is for image a; 1 is one comparison's `weight`.

    `axis_weight` is its axis's part of the weight.
    """

    comparison_id: str
    prompt: str
    image_a: str
    image_b: str
    share: float
    votes: int
    weight: float
    axis_weight: float

    @property
    def heard(self) -> float:
        """Returns what the share counts beside others on the same two images: its votes times its axis's weight."""
        return self.votes * self.axis_weight


def select(table: pa.Table, split: Split, raters: Collection[str] = (), axes: Axes = ALL_AXES) -> pa.Table:
    """Returns the rows of a split in the order of comparison_id, by these raters and on these axes only; empty: by all.

    Raises UserError for a rater or an axis that isn't in the table.
    """
    for column, key, wanted in (("rater_id", "raters", raters), ("axis", "axes", axes)):
        if not wanted:
            continue
        there = {value for value in table[column].unique().to_pylist() if value is not None}
        if unknown := sorted(set(wanted).difference(there)):
            known = f"; there are {', '.join(sorted(there)[:10])}" if key == "axes" and there else ""
            raise UserError(
                f"pairs.{key}: expected {key} of the comparisons, found none named {', '.join(unknown)}{known}"
            )
        table = table.filter(pc.is_in(table[column], value_set=pa.array(list(wanted), pa.string())))
    return table.filter(pc.equal(table["split"], split)).sort_by("comparison_id")


def cast(table: pa.Table, axes: Axes = ALL_AXES, ties: bool = True, sources: Sources = ALL_SOURCES) -> list[Vote]:
    """Returns the votes of comparisons in their order, without those that have none, and without ties if asked.

    A comparison's weight is its axis's, 1 without `axes`, times its source's, 1 for those that `sources` doesn't name,
    times the part that it has in its ranking: the k (k - 1) / 2 comparisons made of a ranking of k images aren't
    independent, and count together like the k - 1 choices that a ranking is (Plackett 1975, Luce 1959). InstructGPT's
    (Ouyang et al. 2022, arXiv 2203.02155, eq. 1) count like one.
    """
    columns = [shared(table[name]) for name in ("comparison_id", "prompt", "image_a", "image_b", "answer", "source")]
    rows = zip(*columns, table["share"].to_pylist(), table["votes"].to_pylist(), table["axis"].to_pylist(), strict=True)
    found: list[Vote] = []
    kept: list[int] = []
    for row, (comparison, prompt, a, b, answer, source, share, votes, axis) in enumerate(rows):
        share = SHARES.get(answer) if share is None else share
        if share is not None and (ties or share != 0.5):
            by_axis = axes.get(axis, 1.0)
            weight = by_axis * sources.get(source, 1.0)
            found.append(Vote(comparison, prompt, a, b, share, 1 if votes is None else votes, weight, by_axis))
            kept.append(row)
    if table["ranking"].null_count == len(table):
        return found
    parts = _parts_of_rankings(table.select(["source", "ranking", "axis"]).take(kept), found)
    return [vote._replace(weight=vote.weight * part) for vote, part in zip(found, parts, strict=True)]


def _parts_of_rankings(table: pa.Table, votes: Sequence[Vote]) -> Iterator[float]:
    """Yields (k - 1) / comparisons for one of a ranking of k images, at most 1; 1 for one of no ranking."""
    columns = (table[name].to_pylist() for name in ("source", "axis", "ranking"))
    keys = list(zip(*columns, strict=True))
    images: dict[tuple[str | None, ...], set[str]] = defaultdict(set)
    for key, vote in zip(keys, votes, strict=True):
        images[key] |= {vote.image_a, vote.image_b}
    counts = Counter(keys)
    for key in keys:
        yield 1.0 if key[-1] is None else min((len(images[key]) - 1) / counts[key], 1.0)


def shared(column: pa.ChunkedArray) -> Sequence[str]:
    """Returns a column as a list in which equal texts are one object, to save memory: prompts and images repeat."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [values[i] for i in encoded.indices.to_pylist()]
