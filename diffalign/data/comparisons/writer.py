"""Writes a folder of comparisons (`table.py` describes it): streaming, atomic, equal input gives equal bytes."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.data.comparisons.table import (
    COMPARISON_SCHEMA,
    COMPARISONS,
    IMAGE_SCHEMA,
    REJECT_SCHEMA,
    REJECTS,
    Comparison,
)

ROW_GROUP_ROWS = 16_384
ROW_GROUP_BYTES = 32 * 2**20
DEFERRED_SCHEMA = pa.schema([*COMPARISON_SCHEMA, ("file", pa.string()), ("row", pa.int64())])
FILE_BYTES = 512 * 10**6
"""Images go into files of at most this size (a single larger image gets its own)."""


class Reject(NamedTuple):
    """Says why a raw row isn't a comparison: its file and row (from 0), a reason's code and words."""

    file: str
    row: int
    reason: str
    detail: str


class Writer:
    """Fills a folder, emptied before, in a `with` block; each file gets its final name when it is whole.

    comparisons.parquet comes last; when anything is raised inside, the folder is removed. In memory are a row group of
    images (32 MB) and of rows. Raises UserError on a full disk. Without `keep_images` none is written.
    """

    def __init__(self, folder: Path, keep_images: bool = True) -> None:
        self.folder, self.keep_images = folder, keep_images
        self.image_files = 0
        self.images: _Table | None = None
        self.comparisons: _Table
        self.rejects: _Table
        self.pending: _Table

    def __enter__(self) -> "Writer":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.comparisons = _Table(self.folder / COMPARISONS, COMPARISON_SCHEMA)
        self.rejects = _Table(self.folder / REJECTS, REJECT_SCHEMA)
        self.pending = _Table(self.folder / "pending.parquet", DEFERRED_SCHEMA)
        return self

    def add(self, comparison: Comparison) -> None:
        """Writes a comparison; its images are added apart."""
        self.comparisons.add(_values(comparison))

    def defer(self, comparison: Comparison, file: str, row: int) -> None:
        """Sets a comparison, made of a file's row, aside on disk, until `deferred` gives it back."""
        self.pending.add([*_values(comparison), file, row])

    def deferred(self) -> Iterator[tuple[Comparison, str, int]]:
        """Yields the comparisons that were set aside, in order, each with its file and row; to be called once."""
        self.pending.close()
        with pq.ParquetFile(self.pending.temporary, pre_buffer=False) as file:
            for batch in file.iter_batches(8192, use_threads=False):
                for raw in batch.to_pylist():
                    name, row = raw.pop("file"), raw.pop("row")
                    yield Comparison(**raw | {"flags": tuple(raw["flags"])}), name, row

    def reject(self, reject: Reject) -> None:
        """Writes a row that isn't a comparison."""
        self.rejects.add(list(reject))

    def add_image(self, sha256: str, data: bytes, width: int, height: int, format_: str) -> None:
        """Writes an image; the caller ensures that each comes once."""
        if not self.keep_images:
            return
        if self.images is not None and self.images.bytes + len(data) > FILE_BYTES:
            self.images.finish()
            self.images = None
        if self.images is None:
            self.images = _Table(self.folder / f"images-{self.image_files:05d}.parquet", IMAGE_SCHEMA)
            self.image_files += 1
        self.images.add([sha256, data, width, height, format_], len(data))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tables = [table for table in (self.images, self.rejects, self.comparisons) if table is not None]
        try:
            if kind is None:
                for table in tables:
                    table.finish()
                files.fsync_folder(self.folder)
        finally:
            for table in [*tables, self.pending]:
                table.abandon()
            if not (self.folder / COMPARISONS).exists():
                shutil.rmtree(self.folder, ignore_errors=True)


def _values(comparison: Comparison) -> list[Any]:
    values = [getattr(comparison, name) for name in COMPARISON_SCHEMA.names]
    return [list(value) if isinstance(value, tuple) else value for value in values]


class _Table:
    """Writes one Parquet file, under a temporary name until `finish`, in row groups of a fixed size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.temporary = path.with_name(f".{path.name}.tmp")
        self.file: IO[bytes] | None = None
        self.writer: pq.ParquetWriter | None = None
        self.rows: list[list[Any]] = []
        self.bytes = self.buffered = 0

    def add(self, row: list[Any], size: int = 0) -> None:
        self.rows.append(row)
        self.bytes += size
        self.buffered += size
        if len(self.rows) >= ROW_GROUP_ROWS or self.buffered >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Ends the file, still under its temporary name."""
        self._flush()
        assert self.file is not None and self.writer is not None
        with files.disk_errors(self.path):
            self.writer.close()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

    def finish(self) -> None:
        """Ends the file and gives it its name."""
        self.close()
        os.replace(self.temporary, self.path)

    def abandon(self) -> None:
        """Closes and removes a file without its name; after `finish` it does nothing."""
        # The disk may be full: what can't be written is thrown away anyway.
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            if self.writer is not None and self.writer.is_open:
                self.writer.close()
        with contextlib.suppress(OSError):
            if self.file is not None:
                self.file.close()
        self.temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        columns = [pa.array([row[i] for row in self.rows], field.type) for i, field in enumerate(self.schema)]
        with files.disk_errors(self.path):
            writer = self._open()
            if self.rows:
                writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows, self.buffered = [], 0

    def _open(self) -> pq.ParquetWriter:
        if self.writer is None:
            self.file = open(self.temporary, "wb")  # noqa: SIM115 - stays open until finish or abandon
            self.writer = pq.ParquetWriter(
                self.file,
                self.schema,
                # Encoded images don't compress, and repeat nowhere: each is stored once.
                compression={name: "none" if name == "bytes" else "zstd" for name in self.schema.names},
                use_dictionary=[name for name in self.schema.names if name not in ("bytes", "sha256")],
                write_statistics=False,
                # Images are known by their SHA-256 already.
                write_page_checksum=self.schema is not IMAGE_SCHEMA,
            )
        return self.writer
