"""Which pairs training is given: those of the train split weighed, the held-out ones as they are."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffalign.config.pairs import Pairs
from diffalign.core.errors import UserError
from diffalign.training import dataset
from stages import train
from tests.helpers.comparison_rows import one, table
from tests.helpers.methods import settings


def spec(folder: Path, **changes: Any) -> Any:
    """What `feed` asks of a run about its pairs."""
    plain = {"rule": "each", "ties": False, "raters": [], "axes": {}, "sources": {}, "flagged": "keep", "weights": []}
    pairs = Pairs.model_validate(plain | changes)
    return SimpleNamespace(comparisons=str(folder), pairs=pairs, policy=SimpleNamespace(swap_labels=False))


def test_held_out_pairs_keep_to_rule_and_raters_and_need_no_weights(tmp_path: Path) -> None:
    """A weight by rater is the train split's: a held-out answer whose rater isn't known is as good as any."""
    rows = [one(n, rater=f"r{n % 2}") for n in range(4)]
    held_out = [one(n, rater=None if n == 5 else "r0", split="validation", image_b=f"B{n}") for n in range(4, 8)]
    pq.write_table(table(*rows, *held_out), tmp_path / "comparisons.parquet")
    plain = dataset.held_out_pairs(spec(tmp_path))
    assert {pair.pair_id for pair in plain} == {"c4", "c5", "c6", "c7"}
    assert dataset.held_out_pairs(spec(tmp_path, weights=["rater", "prompt"])) == plain
    assert "c5" not in {pair.pair_id for pair in dataset.held_out_pairs(spec(tmp_path, raters=["r0"]))}
    weighed = dataset.training_pairs(spec(tmp_path, raters=["r0", "r1"], weights=["rater"]))
    assert [replace(pair, weight=1.0) for pair in weighed] == dataset.training_pairs(spec(tmp_path))


def test_a_weight_by_rater_needs_the_train_splits_raters(tmp_path: Path) -> None:
    pq.write_table(table(one(1), one(2, rater=None)), tmp_path / "comparisons.parquet")
    with pytest.raises(UserError, match=r"pairs\.weights: rater expects a rater for every answer, 1 of 2 have none"):
        dataset.training_pairs(spec(tmp_path, weights=["rater"]))


def test_training_has_the_ties_and_axes_that_it_asks_for_and_says_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four comparisons on axis x one ties; one on y isn't asked for."""
    rows = [
        one(n, "tie" if n == 0 else "a", prompt=f"p{n}", axis="x", flags=["unsafe_a:f"] * (n < 2)) for n in range(4)
    ]
    pq.write_table(table(*rows, one(9, axis="y")), tmp_path / "comparisons.parquet")
    monkeypatch.setattr(train, "COMPARISONS", tmp_path)
    for ties, said in (
        (True, "1 of 4 pairs are ties, used as half a vote for each image\ntrain p: pairs.flagged drop: 2 of 4 pairs"),
        (False, "1 of 4 pairs are ties, left out (pairs.ties: false)\ntrain p: pairs.flagged drop: 1 of 3 pairs"),
    ):
        asked = spec(tmp_path, axes={"x": 1.0}, ties=ties, flagged="drop")
        assert [pair.pair_id for pair in dataset.training_pairs(asked)] == ["c2", "c3"]
        train.say_pairs("p", asked.pairs, settings("dpo", batch_size=4, steps=10, round=None))
        told = capsys.readouterr().err
        assert said in told and "careful: train p: a batch of 4 is larger than the 2 pairs there are" in told
    assert len(dataset.training_pairs(spec(tmp_path, ties=True))) == 5
