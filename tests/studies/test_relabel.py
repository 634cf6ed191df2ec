"""A scorer's answers: by hand, ties and what can't be scored among them."""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import COMPARISON_SCHEMA, COMPARISONS, Comparison
from diffalign.evaluation.relabel import answer, relabelled
from studies.relabel import keep_makers, only_by


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


def test_equal_scores_tie_without_a_margin() -> None:
    assert [answer(a, b, 0.0) for a, b in ((0.5, 0.5), (0.5, 0.500001), (0.6, 0.5))] == ["tie", "b", "a"]


def row(name: str, split: Any, **changes: Any) -> dict[str, Any]:
    at = datetime(2023, 3, 1, tzinfo=UTC)
    found = Comparison(name, "a prompt", "x", "y", "a", "7", "pickapic", None, None, at, split, ("odd",))
    return asdict(found) | changes


def test_one_split_is_answered_anew_and_nothing_else_changes() -> None:
    rows = [row("1", "train"), row("2", "train", image_b="z", answer="tie"), row("3", "test", image_a="unscored")]
    table = pa.Table.from_pylist(rows, schema=COMPARISON_SCHEMA)
    scores = {("x", "a prompt"): 0.2, ("y", "a prompt"): 0.9, ("z", "a prompt"): 0.1}
    found = relabelled(table, scores, "judge", 0.02, ["train"])
    assert found.schema == table.schema
    assert found["answer"].to_pylist() == ["b", "a", "a"]
    assert found["flags"].to_pylist() == [["odd", "answered by judge"], ["odd", "answered by judge"], ["odd"]]
    others = [name for name in table.column_names if name not in ("answer", "flags")]
    assert found.select(others) == table.select(others)


def test_one_models_images_only_in_one_split() -> None:
    both, one, other, unknown = ("m", "m"), ("m", "n"), ("n", "n"), (None, "m")
    rows = [row(str(n), "train", model_a=a, model_b=b) for n, (a, b) in enumerate((both, one, other, unknown))]
    rows.append(row("test", "test", model_a="n", model_b="n"))
    found = only_by(pa.Table.from_pylist(rows, schema=COMPARISON_SCHEMA), "m", "train")
    assert found["comparison_id"].to_pylist() == ["0", "test"]


def test_a_model_that_made_none_of_the_images_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row("1", "train", model_a="m", model_b="m")], schema=COMPARISON_SCHEMA)
    pq.write_table(table, tmp_path / COMPARISONS)
    with pytest.raises(UserError, match="images by n"):
        keep_makers(tmp_path, tmp_path / "out", "n")
    keep_makers(tmp_path, tmp_path / "out", "m")
    assert comparisons.read(tmp_path / "out") == comparisons.read(tmp_path)
