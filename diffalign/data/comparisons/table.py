"""Comparisons on disk: the record and its tables, reading and writing them, and the rule that makes pairs of them.

A folder of comparisons has `comparisons.parquet`, `rejects.parquet` and `images-00000.parquet`…; it is complete when
`comparisons.parquet` is there, which is written last.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffalign.core.errors import UserError

Answer = Literal["a", "b", "tie", "both_bad", "none"]
Split = Literal["train", "validation", "test"]
Rule = Literal["each", "majority"]
Weight = Literal["prompt", "strength", "rater"]
ANSWERS: tuple[Answer, ...] = ("a", "b", "tie", "both_bad", "none")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

COMPARISONS, REJECTS, IMAGES = "comparisons.parquet", "rejects.parquet", "images-*.parquet"
AGAIN = "Make it again: dvc repro --force ingest"

_TEXT = ["comparison_id", "prompt", "image_a", "image_b", "answer", "rater_id", "source", "model_a", "model_b"]
COMPARISON_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [("created_at", pa.timestamp("us", "UTC")), ("split", pa.string()), ("flags", pa.list_(pa.string()))]
)
REJECT_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
)
IMAGE_SCHEMA = pa.schema(
    [("sha256", pa.string()), ("bytes", pa.binary()), ("width", pa.int32()), ("height", pa.int32())]
    + [("format", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer of one rater: which of two images, shown as a and b, is better for the prompt.

    Images are named by the SHA-256 of their bytes. What the source doesn't say is None. `created_at` is in UTC.
    """

    comparison_id: str
    prompt: str
    image_a: str
    image_b: str
    answer: Answer
    rater_id: str | None
    source: str
    model_a: str | None
    model_b: str | None
    created_at: datetime | None
    split: Split
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """A winner and a loser for a prompt; `strength` in [0.5, 1] is the share of the votes that the winner got.

    `weight` is what the pair counts in a loss, 1 on average.
    """

    pair_id: str
    prompt: str
    image_w: str
    image_l: str
    strength: float
    weight: float


def read(folder: Path) -> pa.Table:
    """The comparisons of a folder, in the source's order; raises UserError if they aren't there or are damaged."""
    path = Path(folder) / COMPARISONS
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Make it: dvc repro ingest") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read: {error}. {AGAIN}") from error
    if table.schema.remove_metadata() != COMPARISON_SCHEMA:
        raise UserError(
            f"{path}: expected the columns {', '.join(COMPARISON_SCHEMA.names)}, found "
            f"{', '.join(table.schema.names)}. {AGAIN}"
        )
    return table


def prompts(table: pa.Table, split: Split) -> list[str]:
    """The distinct prompts of a split, ordered by the SHA-256 of their UTF-8 text."""
    found = table.filter(pc.equal(table["split"], split))["prompt"].unique().to_pylist()
    return sorted(found, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())


def pairs(
    table: pa.Table,
    split: Split,
    rule: Rule = "each",
    raters: Collection[str] = (),
    weights: Collection[Weight] = (),
) -> list[Pair]:
    """The pairs of a split, ordered by `pair_id`; the order of the table's rows doesn't matter.

    Rule `each`: every answer a or b is a pair of strength 1, named by its comparison. Rule `majority`: the answers to
    the same prompt and two images, whichever side they were on, make one pair; `strength` is the winner's share, a tie
    counting half for each, and equal shares make no pair. `both_bad` and `none` make none. `raters`: only answers of
    these; empty: of all. `weights` is what a pair's weight is the product of, divided by its mean over these pairs:
    `prompt`, 1 / pairs of its prompt (PickScore's; Kirstain et al. 2023, arXiv 2305.01569); `strength`, 2 s - 1, which
    is 0 for a toss-up; `rater`, 1 / pairs of its rater, with rule `each`. Raises UserError for a rater who isn't in
    the table, and for `rater` where an answer has none.
    """
    table = select(table, split, raters)
    found = _each(table) if rule == "each" else _majority(table)
    return _weighted(found, table, weights) if weights and found else found


def select(table: pa.Table, split: Split, raters: Collection[str] = ()) -> pa.Table:
    """The rows of a split, by these raters (empty: by all), in the order of comparison_id; UserError as `pairs`."""
    if raters:
        unknown = sorted(set(raters).difference(table["rater_id"].unique().to_pylist()))
        if unknown:
            raise UserError(f"pairs.raters: expected raters of the comparisons, found none named {', '.join(unknown)}")
        table = table.filter(pc.is_in(table["rater_id"], value_set=pa.array(list(raters), pa.string())))
    return table.filter(pc.equal(table["split"], split)).sort_by("comparison_id")


def iter_images(folder: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """The images `wanted` (None: all) as (sha256, bytes), in the order in which they are stored, each once.

    Holds one row group of about 32 MB in memory. Raises UserError: an image isn't there, a file can't be
    read, an image's bytes aren't those of its name.
    """
    left = None if wanted is None else set(wanted)
    for path in sorted(Path(folder).glob(IMAGES)):
        try:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    names = _column(file, group, "sha256")
                    if left is not None and left.isdisjoint(names):
                        continue
                    for name, data in zip(names, _column(file, group, "bytes"), strict=True):
                        if left is None or name in left:
                            _check(path, name, data)
                            yield name, data
                    if left is not None:
                        left.difference_update(names)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} can't be read: {error}. {AGAIN}") from error
    if left:
        raise UserError(
            f"{folder}: {len(left)} of the {len(set(wanted or ()))} images asked for aren't there, "
            f"{min(left)} for one. {AGAIN}"
        )


def _check(path: Path, name: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != name:
        raise UserError(f"{path}: the bytes of image {name} are damaged. {AGAIN}")


def _each(table: pa.Table) -> list[Pair]:
    table = table.filter(pc.is_in(table["answer"], value_set=pa.array(["a", "b"])))
    return [
        Pair(comparison, prompt, *((a, b) if answer == "a" else (b, a)), strength=1.0, weight=1.0)
        for comparison, prompt, a, b, answer in _answers(table)
    ]


def _majority(table: pa.Table) -> list[Pair]:
    """Of rows in the order of comparison_id: a pair has the name of its first comparison."""
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
    """The pairs with their weights, whose mean is 1; with rule `each` a pair's rater is its comparison's."""
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
    """Each value divided by the size of its group."""
    counts = Counter(groups)
    return [value / counts[group] for value, group in zip(values, groups, strict=True)]


def _answers(table: pa.Table) -> Iterator[tuple[str, ...]]:
    """(comparison_id, prompt, image_a, image_b, answer) of each row."""
    names = ("comparison_id", "prompt", "image_a", "image_b", "answer")
    return zip(*(_shared(table[name]) for name in names), strict=True)


def _shared(column: pa.ChunkedArray) -> Sequence[str]:
    """A column as a list in which equal texts are one object: a million pairs have far fewer prompts and images."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [values[i] for i in encoded.indices.to_pylist()]


def _column(file: pq.ParquetFile, group: int, name: str) -> Sequence:
    return file.read_row_group(group, columns=[name])[name].to_pylist()
