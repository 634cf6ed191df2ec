"""Parquet files in Pick-a-Pic v2's exact columns and types, with simple random pictures, for everybody's tests."""

import io
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
LABELS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}


def image(seed: int, size: tuple[int, int] = (64, 64), format_: str = "JPEG") -> bytes:
    """An encoded picture of a disc on a ground; another seed gives other bytes."""
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    x, y, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(4, max(size) / 2)
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=rng.choice(COLOURS))
    buffer = io.BytesIO()
    picture.save(buffer, format_)
    return buffer.getvalue()


def row(number: int = 0, answer: str = "a", **changes: Any) -> dict[str, Any]:
    """One raw row with two images of its own; `changes` are to columns."""
    uids = f"uid-{2 * number}", f"uid-{2 * number + 1}"
    label_0, label_1 = LABELS[answer]
    raw = {
        "are_different": True,
        "best_image_uid": {"a": uids[0], "b": uids[1], "tie": "none"}[answer],
        "caption": f"a {COLOURS[number % len(COLOURS)]} disc, number {number}",
        "created_at": datetime(2023, 3, 1) + timedelta(minutes=number),
        "has_label": True,
        "image_0_uid": uids[0],
        "image_0_url": f"https://example.invalid/{uids[0]}.jpg",
        "image_1_uid": uids[1],
        "image_1_url": f"https://example.invalid/{uids[1]}.jpg",
        "jpg_0": None,
        "jpg_1": None,
        "label_0": label_0,
        "label_1": label_1,
        "model_0": "model-x",
        "model_1": "model-y",
        "ranking_id": number,
        "user_id": number % 3,
        "num_example_per_prompt": 1,
        "__index_level_0__": number,
    }
    if "jpg_0" not in changes:
        raw["jpg_0"] = image(2 * number)
    if "jpg_1" not in changes:
        raw["jpg_1"] = image(2 * number + 1)
    unknown = set(changes).difference(raw)
    assert not unknown, unknown
    return {**raw, **changes}


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows `start` … with answers a, b, a, b, tie in turn, each with its own prompt."""
    return [row(number, ("a", "b", "a", "b", "tie")[number % 5]) for number in range(start, start + count)]


def table(raw: Iterable[dict[str, Any]]) -> pa.Table:
    """The rows as a table in the exact schema."""
    return pa.Table.from_pylist(list(raw), SCHEMA)


def write(path: Path, raw: Sequence[dict[str, Any]], **options: Any) -> Path:
    """Writes rows to a Parquet file, folders included, and returns its path; `options` are pyarrow's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(raw), path, **options)
    return path
