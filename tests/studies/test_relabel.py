"""A scorer's answers: by hand, ties and what can't be scored among them."""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from diffalign.data.comparisons.table import COMPARISON_SCHEMA, Comparison
from studies.relabel import answer, relabelled


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.6, 0.5, "a"),
        (0.5, 0.6, "b"),
        (0.5, 0.515, "tie"),
        (0.5, 0.5, "tie"),
        (math.nan, 0.5, "none"),
        (0.5, math.nan, "none"),
    ],
)
def test_an_answer(a: float, b: float, expected: str) -> None:
    assert answer(a, b, 0.02) == expected


def row(name: str, split: Any, **changes: Any) -> dict[str, Any]:
    at = datetime(2023, 3, 1, tzinfo=UTC)
    found = Comparison(name, "a prompt", "x", "y", "a", "7", "pickapic", None, None, at, split, ("odd",))
    return asdict(found) | changes


def test_one_split_is_answered_anew_and_nothing_else_changes() -> None:
    rows = [row("1", "train"), row("2", "train", image_b="z", answer="tie"), row("3", "test", image_a="unscored")]
    table = pa.Table.from_pylist(rows, schema=COMPARISON_SCHEMA)
    scores = {("x", "a prompt"): 0.2, ("y", "a prompt"): 0.9, ("z", "a prompt"): 0.1}
    found = relabelled(table, scores, "judge", 0.02, "train")
    assert found.schema == table.schema
    assert found["answer"].to_pylist() == ["b", "a", "a"]
    assert found["flags"].to_pylist() == [["odd", "answered by judge"], ["odd", "answered by judge"], ["odd"]]
    others = [name for name in table.column_names if name not in ("answer", "flags")]
    assert found.select(others) == table.select(others)
