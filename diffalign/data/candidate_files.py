"""Writes a source's candidates into Parquet files with Pick-a-Pic's columns, as `sources/pickapic.py` reads them."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.data.comparisons.table import Split
from diffalign.data.pickapic_file import LABELS
from diffalign.data.sources.pickapic import COLUMNS, FAMILIES, MORE, SIMULATED, SOURCE
from diffalign.data.sources.source import Candidate

SCHEMA = pa.schema([*COLUMNS.items(), *MORE.items(), (SOURCE, pa.string())])
SCHEMA = SCHEMA.set(SCHEMA.get_field_index("user_id"), pa.field("user_id", pa.string()))  # raters may have names
SCHEMA = SCHEMA.set(SCHEMA.get_field_index("created_at"), pa.field("created_at", pa.timestamp("us", "UTC")))
GROUP_ROWS, GROUP_BYTES, FILE_BYTES = 64, 32 * 2**20, 2**30
"""Rows and bytes of images of a row group; bytes of images of a file."""
NAMES: Mapping[Split | None, str] = {
    "train": "train",
    "validation": "validation",
    "test": "test",
    None: "comparisons",
}
"""Beginnings of the files' names, which say the split of the rows; without one it's by the prompts' hash."""


class CandidateFiles:
    """A folder of files, one or more for each split; as a context it closes them at its end.

    A candidate without a source of its own gets `name`. `note` says that answers are simulated, "" where they aren't;
    `families` are the tags of who answered.
    """

    def __init__(self, folder: Path, name: str, note: str, families: Sequence[str]) -> None:
        self.folder, self.name = folder, name
        self.schema = SCHEMA.with_metadata({SIMULATED: note, FAMILIES: json.dumps(list(families))})
        self.open: dict[Split | None, _File] = {}
        self.numbers: dict[Split | None, int] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "CandidateFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            for file in self.open.values():
                file.flush()
        self.stack.__exit__(kind, error, traceback)

    def add(self, candidate: Candidate) -> None:
        """Writes a candidate, whose answer is one of `LABELS`."""
        split = candidate.split
        if split not in self.open or self.open[split].bytes > FILE_BYTES:
            number = self.numbers[split] = self.numbers.get(split, -1) + 1
            if number:
                self.open[split].flush()
            path = self.folder / f"{NAMES[split]}-{number:05d}.parquet"
            file = self.stack.enter_context(files.writing(path))
            self.open[split] = _File(
                path, self.stack.enter_context(pq.ParquetWriter(file, self.schema, compression="zstd"))
            )
        self.open[split].add(
            row_of(candidate) | {SOURCE: candidate.source or self.name}, len(candidate.bytes_a) + len(candidate.bytes_b)
        )


class _File:
    """Writes rows of one file in groups that fit the memory."""

    def __init__(self, path: Path, writer: pq.ParquetWriter) -> None:
        self.path, self.writer = path, writer
        self.rows: list[dict[str, Any]] = []
        self.bytes = self.buffered = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        self.rows.append(row)
        self.bytes += size
        self.buffered += size
        if len(self.rows) >= GROUP_ROWS or self.buffered >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            with files.disk_errors(self.path):
                self.writer.write_table(pa.Table.from_pylist(self.rows, self.writer.schema))
        self.rows, self.buffered = [], 0


def row_of(candidate: Candidate) -> dict[str, Any]:
    """Returns a candidate in Pick-a-Pic's columns: labels are its answer's, or shares of votes."""
    share = candidate.share
    label_0, label_1 = LABELS[candidate.answer] if share is None else (share, 1 - share)
    return {
        "caption": candidate.prompt,
        "created_at": candidate.created_at,
        "has_label": True,
        "jpg_0": candidate.bytes_a or None,
        "jpg_1": candidate.bytes_b or None,
        "label_0": label_0,
        "label_1": label_1,
        "model_0": candidate.model_a,
        "model_1": candidate.model_b,
        "user_id": candidate.rater_id,
        **{name: getattr(candidate, name) for name in MORE},
    }
