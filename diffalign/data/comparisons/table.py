"""Comparisons on disk: the record, its tables, and reading them.

A folder of comparisons has `comparisons.parquet`, `rejects.parquet` and `images-00000.parquet`…; it is complete when
`comparisons.parquet` is there, which is written last.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffalign.core.errors import UserError

Answer = Literal["a", "b", "tie", "both_bad", "none"]
Split = Literal["train", "validation", "test"]
ANSWERS: tuple[Answer, ...] = ("a", "b", "tie", "both_bad", "none")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

COMPARISONS, REJECTS, IMAGES = "comparisons.parquet", "rejects.parquet", "images-*.parquet"
AGAIN = "Make it again: dvc repro --force ingest"

_TEXT = ["comparison_id", "prompt", "image_a", "image_b", "answer", "rater_id", "source", "model_a", "model_b"]
REQUIRED = ("comparison_id", "prompt", "image_a", "image_b", "source")
"""Columns of text that every row has, beside answer and split."""
COMPARISON_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [("created_at", pa.timestamp("us", "UTC")), ("split", pa.string()), ("flags", pa.list_(pa.string()))]
    + [("share", pa.float64()), ("votes", pa.int64())]
    + [(name, pa.string()) for name in ("axis", "rater_group", "ranking")]
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
    """Holds one answer of one rater, or the votes of many: which of two images, shown as a and b, fits a prompt better.

    Images are named by the SHA-256 of their bytes. What the source doesn't say is None. `created_at` is in UTC. Of many
    raters' votes `share` in [0, 1] is that for a, `votes` their number, and `answer` the side with more. `axis` is what
    was asked for (preference, coherence, ...), `rater_group` whom the raters are of; comparisons made of one ranking of
    several images have its name in `ranking`.
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
    share: float | None = None
    votes: int | None = None
    axis: str | None = None
    rater_group: str | None = None
    ranking: str | None = None


def read(folder: Path) -> pa.Table:
    """Reads the comparisons of a folder, in the source's order; raises UserError if they are missing or damaged."""
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
    known: dict[str, tuple[str, ...]] = {**dict.fromkeys(REQUIRED, ()), "answer": ANSWERS, "split": SPLITS}
    for column, values in known.items():
        found = table[column]
        if found.null_count:
            raise UserError(f"{path}: {column}: expected text in every row, {found.null_count} have none. {AGAIN}")
        others = set(found.unique().to_pylist()).difference(values) if values else set()
        if others:
            raise UserError(f"{path}: {column}: expected {', '.join(values)}, found {min(others)!r}. {AGAIN}")
    return table


def answer_of(share: float) -> Answer:
    """Returns the answer that a share of votes for a, in [0, 1], comes to: the side with more, a tie at one half."""
    return "tie" if share == 0.5 else "a" if share > 0.5 else "b"


def prompts(table: pa.Table, split: Split) -> list[str]:
    """Returns the distinct prompts of a split, ordered by the SHA-256 of their UTF-8 text."""
    found = table.filter(pc.equal(table["split"], split))["prompt"].unique().to_pylist()
    return sorted(found, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())


def iter_images(folder: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yields the images `wanted` (None: all) as (sha256, bytes), in the order in which they are stored, each once.

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


def _column(file: pq.ParquetFile, group: int, name: str) -> Sequence:
    return file.read_row_group(group, columns=[name])[name].to_pylist()
