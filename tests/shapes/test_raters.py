"""The simulated comparisons, on rendered pictures in the model's place."""

import io
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffalign.core.errors import UserError
from diffalign.shapes.build import raters
from diffalign.shapes.scenes import CARELESS, GOOD, flawed_layout, parse_caption, render

ROWS = {"train": 360, "validation_unique": 60, "test_unique": 120}


def _sample(model, captions, seeds):
    scenes = [parse_caption(c) for c in captions]
    flaws = GOOD if model == raters.STRONGER else CARELESS
    layouts = [flawed_layout(s, np.random.default_rng(n), flaws) for s, n in zip(scenes, seeds, strict=True)]
    return np.stack([render(s, layout=k) for s, k in zip(scenes, layouts, strict=True)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons")
    summary = raters.run(folder, {}, seed=1, rows=ROWS, sample=_sample)
    tables = {s: pq.read_table(folder / f"{s}-00000-of-00001.parquet") for s in ROWS}
    return folder, summary, tables, {s: t.to_pylist() for s, t in tables.items()}


def test_columns_and_types_are_pickapics(made):
    expected = (
        "are_different bool, best_image_uid string, caption string, created_at timestamp[ns], has_label bool, "
        "image_0_uid string, image_0_url string, image_1_uid string, image_1_url string, jpg_0 binary, jpg_1 binary, "
        "label_0 double, label_1 double, model_0 string, model_1 string, ranking_id int64, user_id int64, "
        "num_example_per_prompt int64, __index_level_0__ int64"
    )
    for table in made[2].values():
        assert ", ".join(f"{f.name} {f.type}" for f in table.schema) == expected


def test_counts_and_disjoint_prompts(made):
    _, summary, _, records = made
    assert {s: len(r) for s, r in records.items()} == ROWS == {s: summary[s] for s in ROWS}
    prompts = {s: {r["caption"] for r in rows} - {None} for s, rows in records.items()}
    assert len(prompts["test_unique"]) == ROWS["test_unique"]
    assert not prompts["train"] & prompts["test_unique"] and not prompts["train"] & prompts["validation_unique"]
    assert not prompts["test_unique"] & prompts["validation_unique"]


def test_ties_and_agreement_are_calibrated(made):
    summary = made[1]
    assert summary["ties"] == pytest.approx(0.12, abs=0.01)
    assert summary["agreement"] == pytest.approx(0.75, abs=0.03)


def test_labels_agree_with_the_best_image(made):
    for row in made[3]["test_unique"]:
        best = {1.0: row["image_0_uid"], 0.0: row["image_1_uid"], 0.5: "none"}[row["label_0"]]
        assert row["best_image_uid"] == best and row["label_0"] + row["label_1"] == 1
        assert parse_caption(row["caption"]) and row["has_label"]


def test_a_prompts_pictures_come_from_one_model_or_from_several(made):
    pairs = Counter(tuple(sorted({r["model_0"], r["model_1"]})) for r in made[3]["test_unique"])
    several = sum(count for names, count in pairs.items() if len(names) == 2)
    assert set(pairs) >= {(raters.WEAKER,), (raters.BASE,), (raters.STRONGER,)}
    mixed = raters.SESSIONS[raters.WEAKER, raters.BASE, raters.STRONGER]
    assert several / pairs.total() == pytest.approx(mixed * 2 / 3, abs=0.08)  # of three models two pictures differ


def test_raters_are_in_groups(made):
    ids = {r["user_id"] for rows in made[3].values() for r in rows}
    assert {i // 100 for i in ids} == {1, 2, 3, 4} and len(ids) <= raters.WORLD.raters


def test_missing_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*pretrain-demo"):
        raters.run(tmp_path, {raters.BASE: tmp_path / "nowhere"}, rows=ROWS)


def test_the_winner_meets_a_new_challenger(made):
    rows = [r for r in made[3]["train"] if r["caption"]]
    for before, after in zip(rows, rows[1:], strict=False):
        neighbours = before["__index_level_0__"] + 1 == after["__index_level_0__"]
        if neighbours and before["caption"] == after["caption"] and before["best_image_uid"] != "none":
            intact = before["image_0_uid"] != before["image_1_uid"] and after["image_0_uid"] != after["image_1_uid"]
            assert not intact or before["best_image_uid"] in (after["image_0_uid"], after["image_1_uid"])
            assert before["user_id"] == after["user_id"] and before["created_at"] < after["created_at"]


def _flaws(row) -> list[str]:
    found = [] if row["caption"] else ["caption"]
    found += [] if row["has_label"] else ["label missing"]
    found += [] if row["label_0"] + row["label_1"] == 1 else ["label sum"]
    found += ["same image"] if row["image_0_uid"] == row["image_1_uid"] else []
    for data in {row["jpg_0"], row["jpg_1"]}:
        try:
            Image.open(io.BytesIO(data)).load()
        except OSError:
            found.append("cut image" if data else "no image")
    return found


def test_exactly_the_documented_rows_are_broken(made):
    _, _, _, records = made
    flaws = Counter(f for row in records["train"] for f in _flaws(row))
    kinds = ("caption", "label missing", "label sum", "same image", "cut image", "no image")
    assert flaws == dict.fromkeys(kinds, 2)
    assert not [f for s in ("validation_unique", "test_unique") for row in records[s] for f in _flaws(row)]


def test_both_formats_occur_and_decode_to_the_picture(made):
    formats = Counter(Image.open(io.BytesIO(r["jpg_0"])).format for r in made[3]["test_unique"])
    assert formats["JPEG"] > formats["PNG"] > 0


def test_same_seed_same_bytes(made, tmp_path):
    raters.run(tmp_path, {}, seed=1, rows=ROWS, sample=_sample)
    for split in ROWS:
        name = f"{split}-00000-of-00001.parquet"
        assert (tmp_path / name).read_bytes() == (made[0] / name).read_bytes()
