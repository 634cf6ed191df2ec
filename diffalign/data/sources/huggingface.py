"""Data sets of Hugging Face on disk: Parquet files, or Arrow files as `save_to_disk` writes, with images inside.

Columns are known by their usual names or by `data.settings.columns`; an image is bytes, a struct of bytes and path, or
a path below its file's folder.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core.errors import UserError
from diffalign.data.sources import mapped, parquet, source

UNPACK_BYTES = 512 * 2**20
"""As of `parquet.records`."""
ROWS = 16
"""Rows of an Arrow file that are Python's at a time."""


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a file or a folder; raises UserError for other settings, no files, and columns that leave a question."""
    arrow = path.suffix.lower() == ".arrow" if path.is_file() else any(path.rglob("*.arrow"))
    return mapped.opened("huggingface", path, Arrow() if arrow else Parquet(), settings)


class Parquet:
    """Reads Parquet files."""

    suffix, expected = ".parquet", "a Parquet file"

    def survey(self, path: Path) -> tuple[Sequence[str], int]:
        """Returns the columns, and the number of rows."""
        with parquet.damage(path), pq.ParquetFile(path) as file:
            return unique(file.schema_arrow), int(file.metadata.num_rows)

    def read(self, path: Path, names: Sequence[str]) -> Iterator[Any]:
        """Yields the rows."""
        with parquet.damage(path), pq.ParquetFile(path) as file:
            by_name = converters(file.schema_arrow)
        for batch, _ in parquet.records(path, list(names), UNPACK_BYTES):
            yield from (readable(raw, by_name) for raw in batch)


class Arrow:
    """Reads Arrow files in the stream format, in which `save_to_disk` writes, or in the file format."""

    suffix, expected = ".arrow", "an Arrow file"

    def survey(self, path: Path) -> tuple[Sequence[str], int]:
        """Returns the columns, and the number of rows."""
        names: Sequence[str] = ()
        count = 0
        for batch in batches(path):
            names, count = unique(batch.schema), count + batch.num_rows
        return names, count

    def read(self, path: Path, names: Sequence[str]) -> Iterator[Any]:
        """Yields the rows; a batch's columns are checked before they are looked into."""
        for batch in batches(path):
            by_name = converters(batch.schema)
            chosen = batch.select(list(names))
            with parquet.damage(path):
                chosen.validate(full=True)
            for start in range(0, chosen.num_rows, ROWS):
                part = chosen.slice(start, ROWS)
                values = [parquet.values(part[name]) for name in names]
                for row in zip(*values, strict=True):
                    yield readable(dict(zip(names, row, strict=True)), by_name)


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yields an Arrow file's batches, from the disk; raises UserError for a damaged file."""
    with parquet.damage(path), pa.memory_map(str(path)) as file:
        head = file.read(6)
        file.seek(0)
        if head == b"ARROW1":
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(file)


def unique(schema: pa.Schema) -> Sequence[str]:
    """Returns the names of a schema's columns; raises UserError where two have one name."""
    if len(set(schema.names)) < len(schema.names):
        raise UserError(f"two columns have one name in {', '.join(schema.names)}"[:500])
    return list(schema.names)


def converters(schema: pa.Schema) -> dict[str, Callable[[Any], Any]]:
    """Returns what makes a column's values readable: text, times, and the names of classes (`ClassLabel`)."""
    classes = class_names(schema)
    found: dict[str, Callable[[Any], Any]] = {}
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if kind in (pa.string(), pa.large_string(), pa.string_view()):
            found[field.name] = partial(bytes.decode, encoding="utf-8", errors="surrogateescape")
        elif pa.types.is_timestamp(kind):
            found[field.name] = parquet.moment
        elif pa.types.is_integer(kind) and field.name in classes:
            found[field.name] = partial(named, classes[field.name])
    return found


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Returns the classes of the columns that Hugging Face's own metadata says are classes."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: list(map(str, one["names"])) for name, one in features.items() if one.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def named(names: Sequence[str], value: int) -> str | int:
    """Returns the name of a class, its number where it has none (-1: no answer)."""
    return names[value] if 0 <= value < len(names) else "" if value == -1 else value


def readable(raw: Mapping[str, Any], by_name: Mapping[str, Callable[[Any], Any]]) -> Mapping[str, Any]:
    """Returns a row with its values converted, nulls as they are."""
    return {
        name: value if value is None or name not in by_name else by_name[name](value) for name, value in raw.items()
    }
