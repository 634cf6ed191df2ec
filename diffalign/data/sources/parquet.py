"""Reads untrusted Parquet files: checks their columns, streams their rows within a bound on memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core.errors import UserError

DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Errors that reading a damaged Parquet file raises."""


def same(found: pa.DataType, expected: pa.DataType) -> bool:
    """Tells whether a type is the expected one, perhaps with 64-bit offsets or another unit of time."""
    if pa.types.is_timestamp(expected):
        return bool(pa.types.is_timestamp(found))
    return found == expected or found == {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(expected)


def alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Tells whether a type holds what is expected, in whatever way a writer of Parquet may have put it.

    Nothing but nulls; a dictionary of values; text and bytes with any offsets; whole numbers for real ones and for
    truth values; text for whole numbers, which name somebody; a struct with `bytes`, as Hugging Face's images are.
    """
    if pa.types.is_dictionary(found):
        found = found.value_type
    if found == pa.null() or same(found, expected):
        return True
    if expected == pa.binary():
        inner = (
            found.field("bytes").type if pa.types.is_struct(found) and found.get_field_index("bytes") >= 0 else found
        )
        return inner in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.null())
    if expected == pa.string():
        return bool(found == pa.string_view())
    if expected == pa.int64():
        return bool(pa.types.is_integer(found)) or found in (pa.string(), pa.large_string(), pa.string_view())
    number = pa.types.is_integer(found) or (expected == pa.float64() and pa.types.is_floating(found))
    return bool(number and expected in (pa.float64(), pa.bool_()))


def check(
    path: Path,
    columns: Mapping[str, pa.DataType],
    more: Mapping[str, pa.DataType] = MappingProxyType({}),
    fits: Callable[[pa.DataType, pa.DataType], bool] = same,
) -> int:
    """Returns the number of rows of a file with the right columns; raises UserError, without the file's name.

    `more` are columns that it may have; `fits` tells whether a type will do for the one that stands here.
    """
    kinds, rows = _read_footer(path)
    found = {field.name: field.type for field in kinds}
    missing = [name for name in columns if name not in found]
    wrong = [
        f"{name} is {found[name]} instead of {kind}"
        for name, kind in {**columns, **more}.items()
        if name in found and not fits(found[name], kind)
    ]
    twice = [name for name in (*columns, *more) if len(kinds.get_all_field_indices(name)) > 1]
    parts = [f"columns missing: {', '.join(missing)}"] if missing else []
    parts += [f"columns of another type: {', '.join(wrong)}"] if wrong else []
    parts += [f"columns there twice: {', '.join(twice)}"] if twice else []
    if parts:
        raise UserError("; ".join(parts))
    return rows


def schema(path: Path) -> pa.Schema:
    """Returns a file's columns; raises UserError, without the file's name, where it's no Parquet file."""
    return _read_footer(path)[0]


def _read_footer(path: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, int(file.metadata.num_rows)
    except DAMAGED as error:
        size = path.stat().st_size if path.exists() else 0
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"not a Parquet file, or cut short ({size} bytes): {words}") from error


def note(path: Path, key: str) -> str | None:
    """Returns the text under a key of a checked file's own metadata, None if there is none."""
    with pq.ParquetFile(path) as file:
        found = (file.schema_arrow.metadata or {}).get(key.encode())
    return None if found is None else found.decode("utf-8", "replace")


def texts(path: Path, column: str) -> Iterator[list[bytes | None]]:
    """Yields the distinct texts of each few thousand rows of a column, as bytes; UserError if the file is damaged."""
    with damage(path), _open(path, read_dictionary=[column]) as file:
        # As a dictionary, so that a huge text repeated is one in memory.
        for batch in file.iter_batches(8192, columns=[column], use_threads=False):
            yield values(batch[column].unique())


def records(path: Path, columns: list[str], unpack_bytes: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yields the rows of a file as dicts, at most 16 at a time, with their bytes in memory; UserError if damaged.

    Text comes as bytes and times as microseconds, as they lie in the file: nothing says that they are valid. A small
    file may unpack to gigabytes (a dictionary of one image, repeated): so only as many rows are unpacked at a time as
    fit `unpack_bytes` if each were as large as its whole row group. Beside these, memory holds pages, and dictionary
    pages, which some writers make as large as a row group. A column that isn't there gives None.
    """
    count = 0
    with damage(path), _open(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        absent = dict.fromkeys(set(columns).difference(there))
        for group in range(file.num_row_groups):
            # Of the whole group: asking for a column's size ends the process (pyarrow 25) where the footer is damaged.
            size = max(file.metadata.row_group(group).total_byte_size, 1)
            rows = min(max(unpack_bytes // size, 1), 16)
            for batch in file.iter_batches(rows, row_groups=[group], columns=there, use_threads=False):
                cells = [values(batch[name]) for name in there]
                yield [dict(zip(there, row, strict=True)) | absent for row in zip(*cells, strict=True)], batch.nbytes
                count += batch.num_rows
        expected = file.metadata.num_rows
    if count != expected:
        raise UserError(f"{path} is damaged: expected {expected} rows, found {count}. Fetch or write it again.")


def _open(path: Path, read_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
    # Streams pages; with pre_buffer it would hold whole row groups, which may be whole files.
    return pq.ParquetFile(
        path,
        read_dictionary=list(read_dictionary),
        pre_buffer=False,
        buffer_size=2**20,
        page_checksum_verification=True,
    )


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Raises UserError for what reading a damaged file raises."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{path} is damaged: {error}\nFetch or write it again.") from error


def values(column: pa.Array) -> list[Any]:
    """Returns a column's values: text as bytes, times as microseconds, as they lie in the file."""
    # Not to str and datetime: text that isn't UTF-8 and times beyond the calendar would raise.
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type in (pa.string(), pa.large_string(), pa.string_view()):
        return column.cast(pa.large_binary() if column.type == pa.large_string() else pa.binary()).to_pylist()
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
    return column.to_pylist()


def moment(microseconds: int | None) -> datetime | None:
    """Converts microseconds since 1970 to a time in UTC; None where that's beyond the calendar."""
    try:
        return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
