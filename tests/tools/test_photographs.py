"""Pairs of photographs: what is preferred, on both sides, of the size asked for, no photograph in two splits."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tools import photographs


def test_a_splits_rows() -> None:
    rows = list(photographs.rows("validation", 32, seed=1))
    assert len(rows) == photographs.COUNTS["validation"]
    assert len({row["caption"] for row in rows}) == len(rows)
    assert {row["label_0"] for row in rows} == {0, 1}, "the undamaged crop is on either side"
    assert {row[f"model_{i}"] for row in rows for i in (0, 1)} == {"photograph", *photographs.DAMAGE}
    for row in rows:
        kept, other = (0, 1) if row["label_0"] else (1, 0)
        assert row["label_0"] + row["label_1"] == 1 and row[f"model_{kept}"] == "photograph"
        first, second = (np.asarray(Image.open(io.BytesIO(row[f"jpg_{i}"]))) for i in (kept, other))
        assert first.shape == second.shape == (32, 32, 3) and (first != second).any()
        assert first.mean(axis=2).std() > 10, "it shows something"


def test_rows_are_a_function_of_the_seed() -> None:
    first, again, other = (next(photographs.rows("test", 16, seed)) for seed in (3, 3, 4))
    assert first == again and first["jpg_0"] != other["jpg_0"]


def test_no_photograph_is_in_two_splits() -> None:
    used = [what for split in photographs.SPLITS.values() for what in split]
    assert len(used) == len(set(used)) == len(photographs.PHOTOGRAPHS)


def test_folders_are_40_pairs_with_captions(tmp_path: Path) -> None:
    photographs.write_folders(tmp_path, side=16, seed=0)
    names = [f"{number:03d}" for number in range(40)]
    assert sorted(path.stem for path in tmp_path.glob("w/*.png")) == names
    assert sorted(path.stem for path in tmp_path.glob("l/*.png")) == names
    captions = [(tmp_path / "w" / f"{name}.txt").read_text().strip() for name in names]
    assert captions[0] == "a photograph of a woman in an orange suit, detail 0" and len(set(captions)) == 40
    assert len({path.read_bytes() for path in tmp_path.glob("?/*.png")}) == 80
