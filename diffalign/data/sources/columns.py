"""Checks the columns of published Parquet files by what they hold: text, whole numbers, numbers, images, lists."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core.errors import UserError
from diffalign.data.sources import parquet


def _text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _image(kind: pa.DataType) -> bool:
    return _bytes(_field(kind, "bytes")) if pa.types.is_struct(kind) else _bytes(kind)


def _texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _text(kind.value_type)


def _field(kind: pa.DataType, name: str) -> pa.DataType:
    place = kind.get_field_index(name)
    return kind.field(place).type if place >= 0 else pa.bool_()


KINDS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "text": _text,
    "number": _number,
    "image": _image,
    "texts": _texts,
    "two images' paths": lambda kind: (
        pa.types.is_struct(kind) and all(_text(_field(kind, name)) for name in ("image_1", "image_2", "prompt"))
    ),
}
"""What a column may hold; an image is its bytes or Hugging Face's struct of bytes and path."""


def check(path: Path, columns: Mapping[str, str], more: Mapping[str, str] = MappingProxyType({})) -> int:
    """Returns a file's number of rows; UserError, without its name, where a column lacks or holds something else.

    `columns` map names to `KINDS`; `more` are columns that needn't be there.
    """
    schema, rows = schema_of(path)
    found = {field.name: field.type for field in schema}
    wrong = [
        f"{name} is {found[name]}, expected {kind}"
        for name, kind in (dict(columns) | dict(more)).items()
        if name in found and not KINDS[kind](found[name])
    ]
    missing = [name for name in columns if name not in found]
    twice = [name for name in (*columns, *more) if len(schema.get_all_field_indices(name)) > 1]
    parts = [f"columns missing: {', '.join(missing)}"] if missing else []
    parts += [f"columns there twice: {', '.join(twice)}"] if twice else []
    if parts or wrong:
        raise UserError("; ".join([*parts, *wrong]))
    return rows


def schema_of(path: Path) -> tuple[pa.Schema, int]:
    """Returns a file's schema and its number of rows; UserError, without its name, where it's no Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, int(file.metadata.num_rows)
    except parquet.DAMAGED as error:
        words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"not a Parquet file, or cut short ({path.stat().st_size} bytes): {words}") from error


def image(value: Any) -> bytes:
    """Returns the bytes of an image's column, none where they aren't there."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""
