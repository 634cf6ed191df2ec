"""import: photographs in every form that users have become the same comparisons, and params.yaml names them."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from diffalign.commands import import_data
from diffalign.commands.import_source import Asked
from diffalign.config.load import load
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.comparisons import table as comparisons
from diffalign.data.hub import datasets
from stages import ingest
from tests.helpers import own_pairs
from tests.helpers.hub import Hub

REPO = Path(__file__).resolve().parents[2]
PAIRS = own_pairs.pairs(12)


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPO / "params.yaml", tmp_path)


def run(where, to="data/raw/mine", title=None, **asked):
    return import_data.run(load(), str(where), Path(to), Asked(**asked), title, False)


def preferences():
    """The comparisons that ingest makes of what params.yaml names: {(prompt, better image, worse image)}."""
    ingest.run(load())
    rows = comparisons.read(Path("data/comparisons")).to_pylist()
    sides = {"a": ("image_a", "image_b"), "b": ("image_b", "image_a")}
    return {(row["prompt"], *(row[side] for side in sides[row["answer"]])) for row in rows}


WANTED = {(caption, sha256_bytes(better), sha256_bytes(worse)) for caption, better, worse in PAIRS}


def paths(folder):
    """Rows of two images, the better one on either side, with its number as the answer."""
    rows = []
    for number, (caption, better, worse) in enumerate(own_pairs.files(folder, PAIRS)):
        one, two = (better, worse) if number % 2 else (worse, better)
        rows.append(
            {"caption": caption, "image_1": one, "image_2": two, "winner": 1 if number % 2 else 2, "user": "ann"}
        )
    return rows


def images_inside(rows):
    """The same rows as Parquet has them: images as structs, answers as classes."""
    data = {
        side: [own_pairs.struct(Path("t", row[side]).read_bytes(), row[side]) for row in rows]
        for side in ("image_1", "image_2")
    }
    info = {"info": {"features": {"winner": {"names": ["image_1", "image_2", "tie"], "_type": "ClassLabel"}}}}
    columns = {"text": [row["caption"] for row in rows], **data, "winner": [row["winner"] - 1 for row in rows]}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})


MAKERS = {
    "folders": lambda: own_pairs.folders(Path("t"), PAIRS),
    "captions": lambda: own_pairs.folders(Path("t"), PAIRS, ("Chosen", "rejected"), txt=False),
    "jsonl": lambda: own_pairs.table(Path("t"), ".jsonl", paths(Path("t"))).parent,
    "json": lambda: own_pairs.table(Path("t"), ".json", paths(Path("t"))),
    "csv": lambda: own_pairs.table(Path("t"), ".csv", paths(Path("t"))),
    "tsv": lambda: own_pairs.table(Path("t"), ".tsv", paths(Path("t"))),
    "parquet": lambda: own_pairs.parquet(Path("h/data/train-0.parquet"), own_pairs.hub_table(PAIRS)).parents[1],
    "classes": lambda: own_pairs.parquet(Path("h/x.parquet"), images_inside(paths(Path("t")))),
    "arrow": lambda: own_pairs.saved_to_disk(Path("h"), {"train": own_pairs.hub_table(PAIRS)}),
}


@pytest.mark.parametrize("form", MAKERS)
def test_every_form_becomes_the_same_preferences(form, capsys):
    told = run(MAKERS[form]())
    assert "12 rows: 12 comparisons; 6 / 3 / 3 prompts in train / validation / test" in told
    assert told.count("32x32 PNG") == 20 and PAIRS[0][0][:40] in told
    assert preferences() == WANTED
    assert "ingest: 12 rows: 12 comparisons; 6 / 3 / 3 prompts" in capsys.readouterr().err


def test_params_keep_their_comments_and_closing_words_say_what_is_lost():
    """Of 40 pairs one lacks an image and one isn't an image: the issue's own words, but for the demo's 300 steps."""
    folder = own_pairs.folders(Path("t"), own_pairs.pairs())
    (folder / "l/003.png").unlink()
    (folder / "w/005.png").write_bytes(b"<html>404</html>")
    (folder / "w/notes.md").write_text("mine")
    before = Path("params.yaml").read_text().splitlines()
    told = run(folder, "data/raw/my-pets")
    assert (
        "data/raw/my-pets: 40 rows: 38 comparisons, 2 rejected (1 image missing, 1 not an image); 32 / 3 / 3 prompts "
        "in train / validation / test; 300 epochs at batch 32"
    ) in told
    after = Path("params.yaml").read_text().splitlines()
    changed = {new.split("#")[0].strip() for old, new in zip(before, after, strict=True) if old != new}
    assert {"path: data/raw/my-pets", "title: My pets"} < changed and changed.issubset(
        {"path: data/raw/my-pets", "title: My pets"}
        | {line for line in changed if line.startswith(("test: ", "validation: "))}
    )
    assert [line.partition("#")[2] for line in before] == [line.partition("#")[2] for line in after]
    assert Path("data/raw/my-pets/rejected.csv").read_text().splitlines()[1].startswith('"003",3,"image_missing"')
    with pytest.raises(UserError, match="is there already"):
        run(folder, "data/raw/my-pets")


def test_too_many_losses_stop_and_leave_nothing():
    folder = own_pairs.folders(Path("t"), PAIRS)
    for number in range(3):
        (folder / f"w/{number:03d}.png").unlink()
    before = Path("params.yaml").read_bytes()
    with pytest.raises(
        UserError, match=r"3 of 12 rows can't be used.*0\.2 that data\.max_rejects(.|\n)*3 image_missing"
    ):
        run(folder)
    assert not Path("data/raw/mine").exists() and Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("form", "rows", "question"),
    [
        (
            ".csv",
            {"prompt": "p", "caption": "q", "a": "1", "b": "2", "answer": "a"},
            "Which column of .* is the prompt",
        ),
        (".csv", {"words": "p", "a": "1", "b": "2", "answer": "a"}, r"is the prompt\?.*--column prompt=NAME"),
        (".jsonl", {"prompt": "p", "one": "1", "two": "2", "answer": "a"}, "is the image_a"),
        (".jsonl", {"prompt": "p", "a": "1", "b": "2"}, "is the answer"),
        (".jsonl", {"prompt": "p", "a": "1", "b": "2", "label": 0}, r"What do the answers.*--answer 0=a"),
        (".jsonl", {"prompt": "p", "a": "1", "b": "2", "label": "better!"}, "What do the answers"),
        (".jsonl", {"prompt": "p", "a": "1", "b": "2", "chosen": "3", "rejected": "4"}, "could be the images"),
    ],
)
def test_what_is_unclear_is_asked(form, rows, question):
    with pytest.raises(UserError, match=question):
        run(own_pairs.table(Path("t"), form, [rows]))


def test_folders_that_could_be_either_are_asked_about():
    folder = own_pairs.folders(Path("t"), PAIRS, ("mine", "theirs"))
    with pytest.raises(UserError, match=r"Which folder in t won.*mine, theirs.*--winners"):
        run(folder)
    assert "12 comparisons" in run(folder, winners="theirs", losers="mine")
    assert preferences() == {(caption, worse, better) for caption, better, worse in WANTED}


def test_questions_are_answered_by_options():
    rows = [{"words": c, "one": b, "two": w, "label": 0, "more": 1} for c, b, w in own_pairs.files(Path("t"), PAIRS)]
    told = run(
        own_pairs.table(Path("t"), ".csv", rows),
        columns=["prompt=words", "image_a=one", "image_b=two"],
        answers=["0=a"],
        title="Mine: all",
    )
    assert "12 comparisons" in told and preferences() == WANTED
    assert load().report.title == "Mine: all"


def test_votes_shares_and_ties_become_shares():
    files = own_pairs.files(Path("t"), PAIRS[:4])
    votes = [(3, 1), (0, 2), (2, 2), (1, 0)]
    rows = [
        {"prompt": c, "a": a, "b": b, "votes_a": x, "votes_b": y}
        for (c, a, b), (x, y) in zip(files, votes, strict=True)
    ]
    run(own_pairs.table(Path("t"), ".csv", rows))
    ingest.run(load())
    found = {row["prompt"]: row for row in comparisons.read(Path("data/comparisons")).to_pylist()}
    said = [(found[c]["answer"], found[c]["share"], found[c]["votes"]) for c, _, _ in files]
    assert said == [("a", 0.75, 4), ("b", 0.0, 2), ("tie", 0.5, 4), ("a", 1.0, 1)]


def test_nothing_outside_the_tables_folder_is_read():
    """Paths up, absolute ones, links to files and to folders outside: rejected; a named pipe doesn't hang."""
    outside = Path("secret")
    own_pairs.files(outside, PAIRS[:1])
    secret = (outside / "images/000-better.png").resolve()
    good = own_pairs.files(Path("t"), PAIRS)
    (Path("t") / "link.png").symlink_to(secret)
    (Path("t") / "linked").symlink_to(secret.parent)
    os.mkfifo("t/pipe.png")
    bad = ["../secret/images/000-better.png", str(secret), "link.png", "linked/000-better.png", "pipe.png", "a\0b"]
    rows = [{"prompt": f"p{n}", "a": path, "b": good[0][2], "answer": "a"} for n, path in enumerate(bad)]
    rows += [{"prompt": c, "a": a, "b": b, "answer": "a"} for c, a, b in good * 3]
    raw = Path("params.yaml").read_text().replace("max_rejects: 0.2", "max_rejects: 1.0")
    Path("params.yaml").write_text(raw)
    run(own_pairs.table(Path("t"), ".jsonl", rows))
    stored = [
        data for file in Path("data/raw/mine").glob("*.parquet") for data in pq.read_table(file)["jpg_0"].to_pylist()
    ]
    assert secret.read_bytes() not in stored[: len(stored) - 36] and len([d for d in stored if d]) == 36
    assert preferences() == WANTED


def test_a_data_set_of_the_hub_is_pinned_and_offline_says_what_to_do(monkeypatch):
    data = own_pairs.parquet(Path("h/x.parquet"), own_pairs.hub_table(PAIRS)).read_bytes()
    commit = "b" * 40
    hub = Hub({("dataset", "ann/pairs"): {commit: {"data/train-0.parquet": data, "README.md": b"hello"}}})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*copy data/raw/hub/ann--pairs"):
        run("ann/pairs")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        assert "12 comparisons" in run("ann/pairs")
        assert preferences() == WANTED
        lock = json.loads(Path("data/raw/fetch.lock.json").read_text())
        assert lock["hub/ann/pairs"]["commit"] == commit
    finally:
        hub.close()


def test_names_of_data_sets():
    names = ["ann/pairs", "hf:ann/pairs", "hf://datasets/ann/pairs", "https://huggingface.co/datasets/ann/pairs/"]
    assert {datasets.name_of(name) for name in names} == {"ann/pairs"}
    assert datasets.name_of("/ann/pairs") is None and datasets.name_of("pairs") is None


def test_comparisons_keep_the_name_of_their_source(tmp_path):
    """A folder's comparisons are named by the folder that import wrote, also through a second import of its Parquet."""
    run(own_pairs.folders(tmp_path / "given", PAIRS))
    preferences()
    assert set(comparisons.read(Path("data/comparisons"))["source"].to_pylist()) == {"mine"}
    run("data/raw/mine", to="data/raw/again")
    preferences()
    assert set(comparisons.read(Path("data/comparisons"))["source"].to_pylist()) == {"mine"}
