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
from diffalign.evaluation.relabel import Asked, answer, by_raters, relabelled
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


def test_raters_answer_by_their_own_scores_and_the_rest_stays() -> None:
    """Two of three raters a comparison; without noise each says what its scores say; the test split isn't asked."""
    rows = [row(str(n), "train") for n in range(20)] + [row("kept", "test")]
    table = pa.Table.from_pylist(rows, schema=COMPARISON_SCHEMA)
    scores = {
        ("x", "a prompt"): {"1": 0.2, "2": 0.9, "3": math.nan},
        ("y", "a prompt"): {"1": 0.8, "2": 0.1, "3": 0.5},
    }
    how = Asked(answers=2, noise=0.0, tie_below=0.0, seed=0)
    found = by_raters(table, scores, ["1", "2", "3"], how, ["train"]).to_pylist()
    assert len(found) == 41 and found[-1] == table.to_pylist()[-1]
    assert {(one["rater_id"], one["answer"]) for one in found[:-1]} == {("1", "b"), ("2", "a"), ("3", "none")}
    assert len({one["comparison_id"] for one in found}) == 41
    assert all(one["comparison_id"].endswith(f"-{one['rater_id']}") for one in found[:-1])
    assert by_raters(table, scores, ["1", "2", "3"], how, ["train"]).to_pylist() == found


def test_raters_err_as_often_as_their_noise_says() -> None:
    """By Bradley-Terry with noise 0.5 a lead of 0.4 wins 1 / (1 + exp(-0.8)) = 69% of answers; 2,000: within 3%."""
    table = pa.Table.from_pylist([row(str(n), "train") for n in range(2000)], schema=COMPARISON_SCHEMA)
    scores = {("x", "a prompt"): {"1": 0.9}, ("y", "a prompt"): {"1": 0.5}}
    found = by_raters(table, scores, ["1"], Asked(1, 0.5, 0.0, 3), ["train"])["answer"].to_pylist()
    assert found.count("a") / 2000 == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.03)
