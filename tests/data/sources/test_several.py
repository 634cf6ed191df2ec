"""Several sources at once: comparisons are named by them, and each is held to what it is alone."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from diffalign.config.load import parse
from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import make_pairs
from diffalign.data.comparisons import table as comparisons
from stages import ingest
from tests.helpers import published
from tests.helpers.project import REPO

SOURCES = {
    "votes": {"source": "rapidata", "path": "bought/rapidata", "settings": {}},
    "mine": {"source": "pickapic", "path": "mine", "settings": {"splits": {}}},
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published.rapidata(Path("raw/bought/rapidata"))
    published.pickapic_bytes(Path("raw/mine"))


def run(**sources):
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["data"] |= {"source": "several", "path": "raw", "validation": 0.0, "test": 0.0, "repeats": "first"}
    raw["data"]["settings"] = {"sources": SOURCES | sources}
    ingest.run(parse(raw))
    return json.loads(Path("metrics/ingest.json").read_text())


def test_comparisons_and_rejects_say_their_source():
    """Pick-a-Pic's four rows and Rapidata's four, of which one has no votes. Both sets have the same images."""
    metrics = run()
    found = comparisons.read(Path("data/comparisons")).to_pylist()
    assert [(row["source"], row["answer"], row["votes"]) for row in found] == [
        *(("mine", answer, None) for answer in ("a", "b", "tie", "a")),
        *(("votes", answer, 26) for answer in ("a", "tie", "b")),
    ]
    rejects = pq.read_table("data/comparisons/rejects.parquet").to_pylist()
    assert [(row["file"], row["reason"]) for row in rejects] == [
        ("votes/data/train_0001-00000-of-00001.parquet", "bad_answer")
    ]
    assert (metrics["rows"], metrics["comparisons"], metrics["files"], metrics["images"]) == (8, 7, 2, 8)
    assert {name: one["source_rows"] for name, one in metrics["sources"].items()} == {"mine": 4, "votes": 4}
    assert [one["file"] for one in metrics["file_splits"]] == [
        "mine/train-00000.parquet",
        "votes/data/train_0001-00000-of-00001.parquet",
    ]


def test_sources_weigh_as_asked():
    """3 untied pairs of mine and 2 of votes: with 3 for mine the mean of 3, 3, 3, 1, 1 is 11/5."""
    run()
    table = comparisons.read(Path("data/comparisons"))
    named = dict(zip(table["comparison_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    pairs = make_pairs(table, "train", sources={"mine": 3.0})
    assert {(named[pair.pair_id], round(pair.weight, 9)) for pair in pairs} == {
        ("mine", round(15 / 11, 9)),
        ("votes", round(5 / 11, 9)),
    }
    even = make_pairs(table, "train")
    assert {pair.weight for pair in even} == {1.0} and [p.pair_id for p in even] == [p.pair_id for p in pairs]
    with pytest.raises(UserError, match=r"pairs\.sources: expected sources of the comparisons, found none named other"):
        make_pairs(table, "train", sources={"other": 1.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "../elsewhere"}, r"data\.settings\.sources\.votes\.path: expected a folder below data\.path"),
        ({"path": "linked"}, r"sources\.votes\.path: raw/linked is a link, which DVC doesn't follow there"),
        ({"path": "linked/data"}, r"sources\.votes\.path: raw/linked/data is a link"),
        ({"path": "gone"}, r"sources\.votes: raw/gone \(data\.path\): expected a folder"),
        ({"source": "several"}, r"sources\.votes\.source: expected one source, found several"),
        ({"source": "nothing"}, r"sources\.votes: diffalign\.data\.sources: expected one of arena, "),
        ({"settings": {"axes": 1}}, r"sources\.votes: data\.settings in params\.yaml: .*axes"),
        ({"other": 1}, r"data\.settings\.sources\.votes\.other: "),
    ],
)
def test_what_isnt_a_source_is_named(changes, words):
    Path("raw/linked").symlink_to("bought/rapidata")
    with pytest.raises(UserError, match=rf"(?s){words}"):
        run(votes=SOURCES["votes"] | changes)
    assert not Path("data/comparisons").exists()
