"""Writes comparisons into Parquet files with the columns of Pick-a-Pic, as `sources/pickapic.py` reads them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.data.comparisons import table as comparisons
from diffalign.data.sources.pickapic import COLUMNS, FAMILIES, MORE, SIMULATED

LABELS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}
CHUNK = 500
"""Comparisons whose images are in memory at a time."""
Row = dict[str, Any]


def write(
    path: Path,
    rows: Sequence[Row],
    folder: Path,
    note: str,
    families: Sequence[str],
    first: int,
    done: Callable[[int], None],
) -> None:
    """Writes comparisons, as plain values, with their images from `folder`; all have an answer among LABELS.

    A rater's id is written where it's a number. Where a row has a share, labels are shares. The columns `MORE` are
    there where a row says something in one of them. `note` says who answered, and `families` are its tags, in the
    file's own metadata; `first` numbers the rows. `done` is told of each chunk.
    """
    more = MORE if any(row[name] is not None for row in rows for name in MORE) else {}
    schema = pa.schema([*COLUMNS.items(), *more.items()], {SIMULATED: note, FAMILIES: json.dumps(list(families))})
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            images = dict(
                comparisons.iter_images(folder, {row[key] for row in chunk for key in ("image_a", "image_b")})
            )
            lines = list(_lines(chunk, images, first + start))
            writer.write_table(pa.Table.from_pylist(lines, schema), row_group_size=64)
            done(len(chunk))


def _lines(rows: Sequence[Row], images: dict[str, bytes], first: int) -> Iterator[Row]:
    for number, row in enumerate(rows, first):
        label_a, label_b = LABELS[row["answer"]] if row["share"] is None else (row["share"], 1 - row["share"])
        yield {
            "are_different": True,
            "caption": row["prompt"],
            "created_at": row["created_at"],
            "has_label": True,
            "image_0_uid": row["image_a"],
            "image_1_uid": row["image_b"],
            "jpg_0": images[row["image_a"]],
            "jpg_1": images[row["image_b"]],
            "label_0": label_a,
            "label_1": label_b,
            "model_0": row["model_a"],
            "model_1": row["model_b"],
            "ranking_id": number,
            "user_id": int(row["rater_id"]) if (row["rater_id"] or "").isdecimal() else None,
            **{name: row[name] for name in MORE},
        }
