"""Values of a table's cells, where numbers may be text and images are bytes, paths, or Hugging Face's mappings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from diffalign.data.sources import rows
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad

ADDRESSES = ("http://", "https://", "s3://", "gs://", "data:")
REASONS = {"image_url": "an address instead of an image", "no_label": "nobody answered"}
"""Reject codes of this module and of `answers.py`, beside those of `rows.py`."""


def text(value: Any) -> str | None:
    """Returns a cell's text without spaces around it, None for an empty one; numbers are text, too."""
    found = str(value) if isinstance(value, int | float) else rows.text(value)
    return found.strip() or None if found is not None else None


def number(value: Any) -> float | None:
    """Returns a finite number, perhaps written as text; None for anything else."""
    if isinstance(value, str) and len(value) < 50:
        try:
            value = float(value)
        except ValueError:
            return None
    return rows.number(value)


def count(value: Any) -> int | None:
    """Returns a whole number from 0 to a billion, None for anything else."""
    found = number(value)
    return int(found) if found is not None and 0 <= found <= 1e9 and found.is_integer() else None


def moment(value: Any) -> datetime | None:
    """Returns a time, or ISO 8601 text, in UTC, which it is in where it names no zone; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return None


def image(value: Any, images: ImageFiles) -> bytes:
    """Returns an image's bytes, none where there's no image, which ingest rejects; raises Bad for what isn't one.

    `value` is bytes, a path, or a mapping with `bytes` or else `path`, as Hugging Face's data sets have.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.lower().startswith(ADDRESSES):
        raise Bad("image_url", f"{value[:80]}: bring the file, and name its path")
    return images.read(value)
