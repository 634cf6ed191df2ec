"""Rows of comparisons as dicts, and tables of them."""

from datetime import UTC, datetime

import pyarrow as pa

from diffalign.data.comparisons.table import COMPARISON_SCHEMA


def one(number, answer="a", image_a="A", image_b="B", prompt="p", rater="r1", split="train", **more):
    return {
        "comparison_id": f"c{number}",
        "prompt": prompt,
        "image_a": image_a,
        "image_b": image_b,
        "answer": answer,
        "rater_id": rater,
        "source": "test",
        "model_a": None,
        "model_b": "m",
        "split": split,
        "flags": [],
        "created_at": datetime(2024, 1, 2, 3, 4, 5, 678901, UTC),
        **dict.fromkeys(("share", "votes", "axis", "rater_group", "ranking")),
        **more,
    }


def table(*rows):
    return pa.Table.from_pylist(list(rows), COMPARISON_SCHEMA)
