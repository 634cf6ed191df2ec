"""ingest: every raw row has one disposition, prompts one split, images one copy; bad input one clear message."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from diffalign.config.load import parse
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data import pickapic_file
from diffalign.data.comparisons import table as comparisons
from diffalign.data.ingest import REASONS
from diffalign.data.prompts import drawbench, prompt_set
from diffalign.data.sources import pickapic as source
from diffalign.data.sources.source import MAX_PROMPT
from stages import ingest
from tests.helpers import pickapic

REPO = Path(__file__).resolve().parents[2]
OUT = Path("data/comparisons")
IMAGES = [pickapic.image(n) for n in range(3)]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(**data):
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["data"] |= {"path": "raw", "validation": 0.0, "test": 0.0, "max_rejects": 1.0, **data}
    ingest.run(parse(raw))
    return json.loads(Path("metrics/ingest.json").read_text())


def write(name, rows, **options):
    return pickapic.write(Path("raw") / name, rows, **options)


def rejects():
    return {row["row"]: (row["reason"], row["detail"]) for row in pq.read_table(OUT / "rejects.parquet").to_pylist()}


def snapshot():
    return {path.name: path.read_bytes() for path in [*OUT.iterdir(), Path("metrics/ingest.json")]}


def test_rows_become_comparisons():
    """Five rows by hand: raters 0, 1, 2, 0, 1; the last shares an image with the first; one prompt twice."""
    rows = pickapic.rows(5)  # answers a, b, a, b, tie
    rows[4] |= {"jpg_1": rows[0]["jpg_0"], "caption": rows[0]["caption"], "are_different": False, "model_1": None}
    rows[3] |= {"user_id": None, "created_at": None}
    write("deep/er/train-0.parquet", rows)
    metrics = run()
    found = comparisons.read(OUT).to_pylist()
    shas = [[files.sha256_bytes(row[column]) for column in ("jpg_0", "jpg_1")] for row in rows]
    assert [[c["image_a"], c["image_b"]] for c in found] == shas
    assert [c["answer"] for c in found] == ["a", "b", "a", "b", "tie"]
    assert [c["prompt"] for c in found] == [row["caption"] for row in rows]
    assert [c["rater_id"] for c in found] == ["0", "1", "2", None, "1"]
    assert [c["flags"] for c in found] == [[], [], [], ["no_rater", "no_time"], ["not_different"]]
    assert [c["model_b"] for c in found] == ["model-y"] * 4 + [None]
    assert found[1]["created_at"].isoformat() == "2023-03-01T00:01:00+00:00" and found[3]["created_at"] is None
    assert {(c["source"], c["split"], c["model_a"]) for c in found} == {("pickapic", "train", "model-x")}
    stored = dict(comparisons.iter_images(OUT))
    assert stored == {files.sha256_bytes(row[c]): row[c] for row in rows for c in ("jpg_0", "jpg_1")}
    assert metrics == {
        "schema": 1,
        "source": "pickapic",
        "files": 1,
        "rows": 5,
        "comparisons": 5,
        "rejected": 0,
        "rejects": {},
        "answers": {"a": 2, "b": 2, "tie": 1, "both_bad": 0, "none": 0},
        "ties_share": 0.2,
        "splits": {"train": 5, "validation": 0, "test": 0},
        "prompts": 4,
        "split_prompts": {"train": 4, "validation": 0, "test": 0},
        "raters": 3,
        "images": 9,
        "image_bytes": sum(map(len, stored.values())),
        "simulated": False,
        "file_splits": [
            {"file": "deep/er/train-0.parquet", "rows": 5, "split": "train", "known_by": "the word train in its name"}
        ],
        "left_out": {},
        "notes": [],
        "families": [],
    }


def test_images_without_uids_are_told_apart_by_their_bytes():
    unsaid = dict.fromkeys(("image_0_uid", "image_1_uid", "user_id", "ranking_id", "created_at"))
    rows = [row | unsaid | {"caption": "one", "label_0": 1.0, "label_1": 0.0} for row in pickapic.rows(3)]
    write("train-0.parquet", [*rows, rows[1]])
    metrics = run()
    assert (metrics["comparisons"], metrics["rejects"]) == (3, {"duplicate": 1})


def test_data_says_of_itself_that_it_is_simulated():
    assert run(path=str(REPO / "assets/comparisons"))["simulated"] is True


def test_shares_of_votes_are_read_and_written_again():
    """Labels are shares where a row has votes, or where they're none of 0, 1/2 and 1; no votes are no answer."""
    labels = [(1.0, 26), (0.25, 4), (0.5, 2), (0.7, None), (1.0, None), (0.5, 0)]
    raw = pickapic.table([pickapic.row(n, label_0=a, label_1=1 - a) for n, (a, _) in enumerate(labels)])
    raw = raw.append_column("votes", pa.array([votes for _, votes in labels], pa.int64()))
    for name, value in {"axis": "coherence", "rater_group": "de", "ranking": "r1"}.items():
        raw = raw.append_column(name, pa.array([value] + [None] * 5, pa.string()))
    Path("raw").mkdir()
    pq.write_table(raw, "raw/train-0.parquet")
    assert run()["rejects"] == {"no_label": 1}
    found = comparisons.read(OUT).to_pylist()
    assert [(c["answer"], c["share"], c["votes"]) for c in found] == [
        ("a", 1.0, 26),
        ("b", 0.25, 4),
        ("tie", 0.5, 2),
        ("a", 0.7, None),
        ("a", None, None),
    ]
    said = [(c["axis"], c["rater_group"], c["ranking"]) for c in found]
    assert said == [("coherence", "de", "r1")] + [(None, None, None)] * 4
    pickapic_file.write(Path("again/train-0.parquet"), found, OUT, "", [], 0, lambda count: None)
    run(path="again")
    kept = ("prompt", "answer", "share", "votes", "axis", "rater_group", "ranking")
    assert [[c[n] for n in kept] for c in comparisons.read(OUT).to_pylist()] == [[c[n] for n in kept] for c in found]


def test_a_rater_answers_each_axis_once():
    rows = pickapic.table([pickapic.row(n, caption="p", jpg_0=IMAGES[0], jpg_1=IMAGES[1], user_id=7) for n in range(3)])
    Path("raw").mkdir()
    pq.write_table(rows.append_column("axis", pa.array(["x", "y", "x"])), "raw/train-0.parquet")
    assert run()["rejects"] == {"repeated_answer": 1} and rejects()[2][0] == "repeated_answer"


def plain_table(kind):
    """The three columns and images of four rows, in the ways in which writers of Parquet put them."""
    rows = pickapic.rows(4)
    text = [row["caption"] for row in rows]
    first, second = ([row[side] for row in rows] for side in ("jpg_0", "jpg_1"))
    labels, users = pa.array([1, 0, 1, 0], pa.int32()), pa.nulls(4)
    images = [pa.array(side, pa.binary()) for side in (first, second)]
    if kind == "dictionaries":
        images = [side.dictionary_encode() for side in images]
        caption, users = pa.array(text).dictionary_encode(), pa.array(["ann", "bob", "ann", "bob"]).dictionary_encode()
    elif kind == "large":
        images = [side.cast(pa.large_binary()) for side in images]
        caption, users = pa.array(text, pa.large_string()), pa.array(["ann", "bob", "ann", "bob"], pa.large_string())
    else:
        images = [pa.array([{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(d)]) for d in (first, second)]
        caption, users = pa.array(text), pa.array(["ann", "bob", "ann", "bob"])
    unsaid = {name: pa.nulls(4) for name in ("has_label", "created_at", "model_0", "ranking_id")}
    return pa.table(
        {"caption": caption, "jpg_0": images[0], "jpg_1": images[1], "label_0": labels, "user_id": users} | unsaid
    )


@pytest.mark.parametrize("kind", ["dictionaries", "large", "structs"])
def test_few_columns_of_whatever_types_are_enough(kind):
    """Caption, two images and label_0; nulls elsewhere. Ids are those of the same rows in Pick-a-Pic's own types."""
    Path("raw").mkdir()
    pq.write_table(plain_table(kind), "raw/train-0.parquet")
    assert run()["rejects"] == {}
    found = comparisons.read(OUT).to_pylist()
    assert [(c["answer"], c["rater_id"]) for c in found] == [("a", "ann"), ("b", "bob")] * 2
    assert {c["flags"] == ["no_time"] and c["share"] is None for c in found} == {True}
    stored = dict(comparisons.iter_images(OUT))
    assert [stored[c["image_a"]] for c in found] == [row["jpg_0"] for row in pickapic.rows(4)]
    unsaid = dict.fromkeys(("image_0_uid", "image_1_uid", "created_at", "ranking_id", "has_label", "user_id"))
    pq.write_table(plain_table(kind).drop_columns(["user_id"]), "raw/train-0.parquet")
    run()
    ids = comparisons.read(OUT)["comparison_id"].to_pylist()
    labels = [(1.0, 0.0), (0.0, 1.0)] * 2
    rows = [r | unsaid | {"label_0": a, "label_1": b} for r, (a, b) in zip(pickapic.rows(4), labels, strict=True)]
    write("train-0.parquet", rows)
    run()
    assert comparisons.read(OUT)["comparison_id"].to_pylist() == ids


def bad_rows():
    """(reason, row): each row is wrong in one way."""
    image = pickapic.image(1000)
    labels = [(1.0, 1.0), (0.0, 0.0), (0.7, 0.2), (float("nan"), 0.0), (None, 1.0)]
    return [
        ("null_caption", {"caption": None}),
        ("empty_caption", {"caption": " \n\t\u2003"}),
        ("caption_too_long", {"caption": "x" * (MAX_PROMPT + 1)}),
        ("caption_too_long", {"caption": "長" * 100_000}),
        ("no_label", {"has_label": False}),
        ("no_label", {"has_label": None, "label_0": None, "label_1": None}),
        *(("bad_label", {"label_0": a, "label_1": b}) for a, b in labels),
        ("image_missing", {"jpg_0": None}),
        ("image_missing", {"jpg_1": b""}),
        ("image_too_large", {"jpg_0": pickapic.image(1, (600, 600))}),
        ("image_too_large", {"jpg_1": image + bytes(100_000)}),
        ("image_truncated", {"jpg_1": image[: len(image) // 2]}),
        ("image_undecodable", {"jpg_0": b"<html>404</html>"}),
        ("image_undecodable", {"jpg_1": pickapic.image(1, (64, 64), "GIF")}),
        ("same_image", {"jpg_0": image, "jpg_1": image}),
    ]


def test_every_row_has_one_disposition():
    cases = bad_rows()
    rows = [pickapic.row(n, **change) for n, (_, change) in enumerate(cases)] + pickapic.rows(10, len(cases))
    rows.append(rows[-1])
    write("train-0.parquet", rows, row_group_size=7)
    metrics = run(max_image_pixels=300_000, max_image_bytes=100_000)
    found = rejects()
    assert {row: reason for row, (reason, _) in found.items()} == {
        **{n: reason for n, (reason, _) in enumerate(cases)},
        len(rows) - 1: "duplicate",
    }
    assert all(len(detail) < 300 for _, detail in found.values())
    assert found[13][1] == "image a: 600 x 600 pixels, at most 300000 pixels are allowed"
    assert metrics["rows"] == len(rows) == metrics["comparisons"] + metrics["rejected"]
    assert metrics["comparisons"] == 10 and metrics["rejected"] == len(cases) + 1
    assert metrics["rejects"] == {**Counter(reason for reason, _ in cases), "duplicate": 1}
    used = {image for c in comparisons.read(OUT).to_pylist() for image in (c["image_a"], c["image_b"])}
    assert {name for name, _ in comparisons.iter_images(OUT)} == used and metrics["images"] == 20


def test_all_reasons_are_known_and_tried():
    tried = {reason for reason, _ in bad_rows()} | {"duplicate", "caption_not_text", "prompt_in_other_split"}
    tried |= {
        "image_in_other_split",
        "near_image_in_other_split",
        "repeated_answer",
        "contradicting_answer",
        "prompt_of_evaluation_set",
    }
    assert tried == set(REASONS) | set(source.PickAPic.reasons)


def test_hostile_captions_are_kept_as_they_are():
    captions = [
        "a\0b",
        "\x1b[31mred\x07",
        "<script>alert(1)</script>",
        "\u202eright to left",
        "'; DROP TABLE",
        "=1+1",
        "\ufeff x ",
        "a\r\nb",
        "💥" * MAX_PROMPT,
    ]
    write("train-0.parquet", [pickapic.row(n, caption=caption) for n, caption in enumerate(captions)])
    assert run()["comparisons"] == len(captions)
    assert [c["prompt"] for c in comparisons.read(OUT).to_pylist()] == captions


def test_text_that_is_not_utf8():
    """Parquet says string and has other bytes: a caption is rejected, a model's name is read as well as it can be."""
    raw = pickapic.table(pickapic.rows(3))
    for column, values in {"caption": [b"fine", b"caf\xe9", b"fine too"], "model_0": [b"caf\xe9"] * 3}.items():
        text = pa.array(values, pa.binary()).cast(pa.string(), safe=False)
        raw = raw.set_column(raw.schema.get_field_index(column), column, text)
    Path("raw").mkdir()
    pq.write_table(raw, "raw/train-0.parquet", write_statistics=False)
    assert run()["rejects"] == {"caption_not_text": 1} and rejects()[1][0] == "caption_not_text"
    assert {c["model_a"] for c in comparisons.read(OUT).to_pylist()} == {"caf\ufffd"}


def test_a_prompt_is_in_one_split():
    """Test wins over validation wins over train, whatever the order of the files and the prompt's case and spacing."""
    prompts = {"train-0": ["A", "b", "c ", "d"], "validation-0": ["B", "e"], "test-0": ["C", "e", "f"]}
    prompts["more"] = ["a", "E ", "f"]
    number = 0
    for name, captions in prompts.items():
        write(f"{name}.parquet", [pickapic.row(number := number + 1, caption=caption) for caption in captions])
    metrics = run()
    found = {(c["prompt"], c["split"]) for c in comparisons.read(OUT).to_pylist()}
    assert found == {
        ("A", "train"),
        ("d", "train"),
        ("B", "validation"),
        ("C", "test"),
        ("e", "test"),
        ("f", "test"),
        ("a", "train"),
        ("E ", "test"),  # rows without a split follow the source's
    }
    assert metrics["rejects"] == {"prompt_in_other_split": 3} and metrics["rows"] == 12
    assert metrics["splits"] == {"train": 3, "validation": 1, "test": 5}
    assert {(r["file"], r["row"]) for r in pq.read_table(OUT / "rejects.parquet").to_pylist()} == {
        ("train-0.parquet", 1),
        ("train-0.parquet", 2),
        ("validation-0.parquet", 1),
    }


def test_an_image_is_in_one_split():
    """Test's images are kept out of validation and train, validation's out of train, whatever the files' order.

    Image n is pickapic.image(n). Test has images 0 to 3. Of validation's rows (2, 8) and (10, 11) the first shows
    test's image 2 and goes, so 8 is nobody's; of train's (8, 20), (11, 21), (3, 22), (23, 24) the middle two go.
    """
    held_out = {"test-0": [(0, 1), (2, 3)], "validation-0": [(2, 8), (10, 11)]}
    shown = held_out | {"a-train": [(8, 20), (11, 21), (3, 22), (23, 24)]}
    number = 0
    for name, pairs in shown.items():
        rows = []
        for a, b in pairs:
            rows.append(pickapic.row(number := number + 1, jpg_0=pickapic.image(a), jpg_1=pickapic.image(b)))
        write(f"{name}.parquet", rows)
    metrics = run()
    assert metrics["splits"] == {"train": 2, "validation": 1, "test": 2}
    assert metrics["rejects"] == {"image_in_other_split": 3} and metrics["rows"] == 8
    found = pq.read_table(OUT / "rejects.parquet").to_pylist()
    assert [(r["file"], r["row"], r["detail"]) for r in found] == [
        ("a-train.parquet", 1, "this is train, one of its images is in validation"),
        ("a-train.parquet", 2, "this is train, one of its images is in test"),
        ("validation-0.parquet", 0, "this is validation, one of its images is in test"),
    ]
    sides = {"train": set(), "validation": set(), "test": set()}
    for row in comparisons.read(OUT).to_pylist():
        sides[row["split"]] |= {row["image_a"], row["image_b"]}
    assert not sides["train"] & (sides["validation"] | sides["test"]) and not sides["validation"] & sides["test"]


def test_an_image_is_in_one_split_by_the_prompts_hash_too():
    rows = [pickapic.row(n, jpg_0=IMAGES[n % 3], jpg_1=pickapic.image(1000 + n)) for n in range(60)]
    write("data.parquet", rows)
    metrics = run(validation=0.2, test=0.2)
    assert metrics["splits"]["test"] and metrics["rejects"] == {"image_in_other_split": 60 - metrics["comparisons"]}
    assert metrics["splits"]["train"] + metrics["splits"]["validation"] == 0  # every row shows one of three images


def scene(seed, size=128, quality=90):
    """A picture with detail everywhere: smooth noise."""
    grid = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_an_image_that_looks_like_a_held_out_one_is_kept_out_if_asked(capsys):
    """Scene 0 is in test, a smaller copy in validation, and others in train; the validation row's other one is free."""
    shown = {
        "test-0": [(scene(0), scene(1))],
        "validation-0": [(scene(0, 96), scene(2)), (scene(3), scene(4))],
        "train-0": [(scene(1, 128, 50), scene(5)), (scene(4, 200), scene(6)), (scene(2, 96), scene(7))],
    }
    rows = iter(range(99))
    for name, pairs in shown.items():
        write(f"{name}.parquet", [pickapic.row(next(rows), jpg_0=a, jpg_1=b) for a, b in pairs])
    assert run()["rejects"] == {} and "looks like" not in capsys.readouterr().err
    metrics = run(near_duplicates=4)
    assert metrics["splits"] == {"train": 1, "validation": 1, "test": 1}
    assert metrics["rejects"] == {"near_image_in_other_split": 3}
    found = pq.read_table(OUT / "rejects.parquet").to_pylist()
    assert [(r["file"], r["row"], r["detail"].rpartition(" ")[2]) for r in found] == [
        ("train-0.parquet", 0, "test"),
        ("train-0.parquet", 1, "validation"),
        ("validation-0.parquet", 0, "test"),
    ]
    assert "ingest: 3 comparisons show an image that looks like a held-out one" in capsys.readouterr().err


def test_one_raters_answers_to_the_same_two_images_count_once():
    """Rater 7 answers images A, B four times: a is better; mirrored, the same; a tie; b is better. Rater 8 once."""
    a, b = {"jpg_0": IMAGES[0], "jpg_1": IMAGES[1]}, {"jpg_0": IMAGES[1], "jpg_1": IMAGES[0]}
    answers = [("a", a, 7), ("b", b, 7), ("tie", a, 7), ("b", a, 7), ("b", b, 8)]
    rows = [pickapic.row(n, answer, caption="p", user_id=user, **s) for n, (answer, s, user) in enumerate(answers)]
    rows += [pickapic.row(9, caption="another prompt", user_id=7, **a)]
    rows += [pickapic.row(n, caption="p", user_id=None, **a) for n in (10, 11)]  # may be two people
    write("train-0.parquet", rows)
    assert run(repeats="all")["comparisons"] == 8
    metrics = run(repeats="first")
    assert metrics["rejects"] == {"repeated_answer": 1, "contradicting_answer": 2}
    assert [rejects()[n][0] for n in (1, 2, 3)] == ["repeated_answer", "contradicting_answer", "contradicting_answer"]
    assert [c["rater_id"] for c in comparisons.read(OUT).to_pylist()] == ["7", "8", "7", None, None]


def test_without_names_prompts_are_split_by_hash():
    tiny = [pickapic.image(n, (16, 16)) for n in range(600)]  # a prompt's own two
    shown = [{"jpg_0": tiny[2 * (n % 300)], "jpg_1": tiny[2 * (n % 300) + 1]} for n in range(600)]
    write("data.parquet", [pickapic.row(n, caption=f"prompt {n % 300}", **shown[n]) for n in range(600)])
    metrics = run(validation=0.1, test=0.2, repeats="all")
    splits = {}
    for row in comparisons.read(OUT).to_pylist():
        assert splits.setdefault(row["prompt"], row["split"]) == row["split"]
    counts = Counter(splits.values())
    assert counts == metrics["split_prompts"]
    assert 15 <= counts["validation"] <= 45 and 40 <= counts["test"] <= 80  # 30 ± 3σ, 60 ± 3σ
    assert run(validation=0.0, test=0.0)["split_prompts"] == {"train": 300, "validation": 0, "test": 0}
    assert run(validation=0.5, test=0.5)["split_prompts"]["train"] == 0


def test_equal_rows_in_several_files_are_one_comparison():
    """As Pick-a-Pic's validation and validation_unique; another rater's answer to the same images is another one."""
    rows = pickapic.rows(6)
    write("validation-0.parquet", rows)
    write("validation_unique-0.parquet", [rows[2], {**rows[4], "user_id": 77}])
    metrics = run()
    assert metrics["comparisons"] == 7 and metrics["rejects"] == {"duplicate": 1} and metrics["images"] == 12


def test_the_bytes_are_the_same_whatever_the_threads_and_row_groups(monkeypatch):
    rows = [pickapic.row(n, **change) for n, (_, change) in enumerate(bad_rows())] + pickapic.rows(40, 100)
    write("train-0.parquet", rows)
    run()
    first = snapshot()
    write("train-0.parquet", rows, row_group_size=3, compression="zstd")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    run()
    assert snapshot() == first


def test_large_offsets_and_other_units_of_time_are_welcome():
    raw = pickapic.table(pickapic.rows(4))
    expected = snapshot_of(raw)
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    wide[pa.timestamp("ns")] = pa.timestamp("us", "UTC")
    schema = pa.schema([(field.name, wide.get(field.type, field.type)) for field in raw.schema])
    assert snapshot_of(raw.cast(schema)) == expected
    assert snapshot_of(raw.cast(schema).select(list(reversed(schema.names)))) == expected
    assert snapshot_of(raw.drop_columns(["__index_level_0__", "image_0_url", "best_image_uid"])) == expected


def snapshot_of(table):
    Path("raw").mkdir(exist_ok=True)
    pq.write_table(table, "raw/train-0.parquet")
    run()
    return snapshot()


def columns(drop=(), **types):
    """Writes raw/train-0.parquet without some columns and with others in another type."""
    raw = pickapic.table(pickapic.rows(2)).drop_columns(list(drop))
    for name, kind in types.items():
        raw = raw.set_column(raw.schema.get_field_index(name), name, raw[name].cast(kind))
    pq.write_table(raw, write("train-0.parquet", []))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


BAD_INPUT = {
    "no folder": (lambda: None, "raw .data.path.: expected a folder"),
    "no files": (Path("raw").mkdir, "found none"),
    "missing columns": (lambda: columns(["jpg_1", "label_0"]), "raw/train-0.parquet: columns missing: jpg_1, label_0"),
    "wrong type": (
        lambda: columns(label_0=pa.string(), user_id=pa.float64()),
        "label_0 is string instead of double, user_id is double instead of int64",
    ),
    "no rows": (lambda: write("train-0.parquet", []), "expected rows"),
    "no bytes": (lambda: write("train-0.parquet", []).write_bytes(b""), "0 bytes"),
    "truncated": (
        lambda: cut(write("train-0.parquet", pickapic.rows(9)), 0.7),
        "train-0.parquet: not a Parquet file, or cut",
    ),
    "nothing to use": (
        lambda: write("a.parquet", [pickapic.row(n, has_label=False) for n in range(3)]),
        "3 no_label: nobody",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_the_users_to_mend(case):
    make, expected = BAD_INPUT[case]
    make()
    with pytest.raises(UserError, match=expected):
        run()
    assert not OUT.exists() and not Path("metrics").exists()


def test_all_bad_files_are_named_at_once():
    write("train-0.parquet", pickapic.rows(2))
    for n in range(25):
        write(f"bad-{n:02d}.parquet", []).write_bytes(b"PAR1")
    with pytest.raises(
        UserError, match=r"25 of 26 files aren't(?s:.*)bad-00(?s:.*)bad-19(?s:.*)[.]{3} and 5 files more"
    ):
        run()


def test_damage_found_on_the_way_leaves_nothing():
    path = write("train-0.parquet", pickapic.rows(60), row_group_size=10, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-0.parquet is damaged"):
        run()
    assert not OUT.exists()


def test_two_at_once(monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    write("train-0.parquet", pickapic.rows(2))
    Path("runs/ingest").mkdir(parents=True)
    with files.lock(Path("runs/ingest")), pytest.raises(UserError, match="in use"):
        run()


def test_a_killed_run_leaves_no_half_file_and_the_next_ends_the_same():
    """Killed after 128 of 200 rows, when an images file is complete and another is being written."""
    write("train-0.parquet", pickapic.rows(200))
    code = (
        "import os, signal, yaml\n"
        "from diffalign.data.comparisons import writer as comparison_writer\n"
        "from diffalign.config.load import parse\nfrom stages import ingest\n"
        f"raw = yaml.safe_load(open({str(REPO / 'params.yaml')!r}))\n"
        "raw['data'] |= {'path': 'raw', 'validation': 0, 'test': 0}\n"
        "comparison_writer.FILE_BYTES, comparison_writer.ROW_GROUP_BYTES = 100_000, 10_000\n"
        "from diffalign.data import ingest as library\n"
        "class Deadly(library.Progress):\n"
        "    def update(self, count=1, extra=''):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "library.Progress = Deadly\ningest.run(parse(raw))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    left = {path.name for path in OUT.iterdir()}
    assert "images-00000.parquet" in left and any(name.endswith(".parquet.tmp") for name in left)
    for name in left:
        if not name.endswith(".tmp"):
            pq.read_table(OUT / name)
    with pytest.raises(UserError, match="missing"):
        comparisons.read(OUT)
    run()
    again = snapshot()
    run()
    assert snapshot() == again and not any(name.endswith(".tmp") for name in again)


def test_a_repeated_image_is_not_unpacked_all_at_once(monkeypatch):
    """A dictionary of one 200 kB image in 3,000 rows: a small file, 1.2 GB unpacked."""
    raw = pickapic.table([pickapic.row(0, jpg_0=b"", jpg_1=b"")] * 3000)
    picture = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([bytes(200_000)]))
    for name in ("jpg_0", "jpg_1"):
        raw = raw.set_column(raw.schema.get_field_index(name), name, picture)
    Path("raw").mkdir()
    pq.write_table(raw, "raw/train-0.parquet", store_schema=False, compression="zstd")
    assert Path("raw/train-0.parquet").stat().st_size < 100_000
    before = pa.default_memory_pool().max_memory()
    rows = source.load(Path("raw"), {"splits": {}}).records()
    assert sum(map(len, rows)) == 3000
    assert pa.default_memory_pool().max_memory() < before + 64 * 2**20


def test_mutated_parquet_is_refused_or_accounted_for():
    """Bytes changed, removed or repeated, by seed: a UserError, or every row has a disposition; nothing else."""
    whole = write("train-0.parquet", pickapic.rows(12), row_group_size=5, compression="zstd").read_bytes()
    rng, outcomes = np.random.default_rng(11), Counter()
    for _ in range(80):
        mutant = bytearray(whole)
        start = int(rng.integers(4, len(whole)))
        match rng.integers(4):
            case 0:
                mutant[start] ^= 1 << rng.integers(8)
            case 1:
                mutant[start : start + 40] = rng.bytes(40)
            case 2:
                del mutant[start : start + 16]
            case 3:
                mutant[start:start] = mutant[start : start + 16]
        Path("raw/train-0.parquet").write_bytes(mutant)
        shutil.rmtree(OUT, ignore_errors=True)
        try:
            metrics = run()
        except UserError as error:
            assert "raw" in str(error) or "data.path" in str(error)
            assert not OUT.exists()
            outcomes["refused"] += 1
        else:
            assert metrics["rows"] == metrics["comparisons"] + metrics["rejected"]
            outcomes["read"] += 1
    assert outcomes["refused"] > 40 and outcomes["read"] > 2


@pytest.mark.parametrize("split", ["val", "", "TEST"])
def test_a_setting_that_the_source_does_not_know_is_named(split):
    write("train-0.parquet", pickapic.rows(2))
    with pytest.raises(UserError, match=r"data\.settings\.splits\.a: "):
        run(settings={"splits": {"a": split}})
    with pytest.raises(UserError, match=r"data\.settings\.split: "):
        run(settings={"splits": {}, "split": {}})


def test_prompts_of_an_evaluation_set_are_kept_out_of_training(monkeypatch):
    """In the training split only, whatever their case; they're rejects with the set's name, and counted."""
    (prompt_set.ROOT / "drawbench").mkdir(parents=True)
    monkeypatch.setattr(drawbench, "COUNT", 1)
    write("train-0.parquet", [pickapic.row(0, caption="A  red Car"), pickapic.row(1, caption="a red cart")])
    write("test_unique-0.parquet", [pickapic.row(2, caption="a blue car")])
    for prompts in (["a red car"], ["a blue car"]):
        (prompt_set.ROOT / "drawbench/drawbench.json").write_text(json.dumps(prompts))
        metrics = run(drop_prompts_of=["drawbench"])
        dropped = prompts == ["a red car"]
        assert metrics["rejects"] == ({"prompt_of_evaluation_set": 1} if dropped else {})
        assert metrics["splits"] == {"train": 2 - dropped, "validation": 0, "test": 1}
        assert list(rejects().values()) == [("prompt_of_evaluation_set", "it's one of drawbench")] * dropped
