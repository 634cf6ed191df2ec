"""Votes as a source: each has one disposition, and ingest makes comparisons of those that count."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from diffalign.config.load import parse
from diffalign.core.errors import UserError
from diffalign.data import votes
from diffalign.data.comparisons import table as comparisons
from diffalign.data.splits import PromptSplits
from stages import ingest
from tests.helpers import pickapic
from tests.helpers.project import REPO
from tests.helpers.voters import flipped, vote

FOLDER = Path("data/votes")
IMAGES = {name: pickapic.image(seed, format_="PNG") for seed, name in enumerate("xyzw")}
X, Y, Z, W = (hashlib.sha256(data).hexdigest() for data in IMAGES.values())
SETTINGS = {"axis": "overall", "failed_checks": "drop"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (FOLDER / votes.IMAGES).mkdir(parents=True)
    for digest, data in zip((X, Y, Z, W), IMAGES.values(), strict=True):
        (FOLDER / votes.IMAGES / digest).write_bytes(data)


def one(number, **changes):
    return vote(**{"prompt": f"prompt {number}", "pair_id": str(number), "image_a": X, "image_b": Y, **changes})


def write(*rows, name="arena"):
    pq.write_table(votes.table(rows), FOLDER / f"{name}.parquet")


def run(shares=0.0, **settings):
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["data"] |= {"source": "arena", "path": str(FOLDER), "validation": shares, "test": shares, "max_rejects": 1.0}
    raw["data"]["settings"] = SETTINGS | settings
    ingest.run(parse(raw))
    return json.loads(Path("metrics/ingest.json").read_text())


def rejects():
    return [row["reason"] for row in pq.read_table("data/comparisons/rejects.parquet").to_pylist()]


def test_votes_become_comparisons():
    rows = [
        one(0),
        one(1, answer="both_bad", rater_id="r1", model_a="y", model_b="x", image_a=Z, image_b=X),
        one(2, question="appeal"),
        one(3, answer="skip"),
        one(4, kind="noise", expected="a", image_b="0" * 64, model_b=None),
        flipped(one(0), kind="repeat"),
        flipped(one(0), kind="repeat", answer="a", rater_id="r2"),
    ]
    write(*rows)
    metrics = run()
    assert (metrics["rows"], metrics["comparisons"], metrics["simulated"]) == (7, 3, False)
    assert sorted(rejects()) == ["check", "other_question", "repeated_answer", "skipped"]
    first, second, third = comparisons.read(Path("data/comparisons")).to_pylist()
    assert (first["answer"], first["rater_id"], first["image_a"], first["model_b"]) == ("a", "r0", X, "y")
    assert (first["source"], first["comparison_id"], first["flags"]) == ("arena", f"arena-{rows[0].vote_id}", [])
    assert (second["answer"], second["image_a"], second["model_a"]) == ("both_bad", Z, "y")
    assert (third["answer"], third["image_a"], third["flags"]) == ("a", Y, ["repeat"])


@pytest.mark.parametrize(("what", "kept"), [("drop", 1), ("keep", 2)])
def test_raters_who_failed_the_checks(what, kept):
    checks = [one(n, kind="noise", expected="b", image_b="0" * 64, rater_id="bad") for n in range(3)]
    write(one(7, rater_id="bad"), one(8), *checks)
    metrics = run(failed_checks=what)
    assert (metrics["comparisons"], metrics["raters_failed_checks"]) == (kept, 1)
    flags = [row["flags"] for row in comparisons.read(Path("data/comparisons")).to_pylist()]
    assert flags == ([["failed_checks"], []] if what == "keep" else [[]])


def test_simulated_voters_are_named_and_files_are_put_together():
    write(one(0))
    write(one(1, rater_id="simulated-0"), name="other")
    metrics = run()
    assert (metrics["simulated"], metrics["comparisons"], metrics["files"]) == (True, 2, 2)


def prompts_by(split, count):
    """Prompts that the hash puts in a split, at shares of 0.1 each."""
    splits = PromptSplits((), 0.1, 0.1)
    found = (f"a disc, number {n}" for n in range(1000))
    return [prompt for prompt in found if splits.of(prompt) == split][:count]


def test_votes_on_test_prompts_leave_nothing_to_train_on(capsys):
    """The test split's prompts were chosen by the hash that splits votes: the error names it and what to do."""
    test = [one(n, prompt=prompt) for n, prompt in enumerate(prompts_by("test", 3))]
    write(*test)
    with pytest.raises(UserError, match=r"all 3 votes are held out, 3 of them in the test.*data\.test.*docs/arena\.md"):
        run(shares=0.1)
    assert not Path("data/comparisons").exists()
    write(*test, *(one(n, prompt=prompt, image_a=Z, image_b=W) for n, prompt in enumerate(prompts_by("train", 2), 5)))
    assert run(shares=0.1)["splits"] == {"train": 2, "validation": 0, "test": 3}
    assert "3 of 5 votes" in capsys.readouterr().err
    write(*(one(n, prompt=prompt) for n, prompt in enumerate(prompts_by("train", 5))))
    run(shares=0.1)
    assert "votes" not in capsys.readouterr().err


def test_images_that_are_gone_or_damaged():
    (FOLDER / votes.IMAGES / Y).unlink()
    write(one(0), one(1, image_b=Z))
    run()
    assert rejects() == ["image_missing"]
    (FOLDER / votes.IMAGES / Z).write_bytes(b"other")
    with pytest.raises(UserError, match=f"{Z} is damaged"):
        run()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"answer": "c"}, "answer 'c'"),
        ({"image_a": "../../etc/passwd"}, "image_a '../../etc/passwd'"),
        ({"question": "all"}, "question 'all'"),
        ({"rater_id": None}, "no rater_id"),
    ],
)
def test_what_isnt_a_vote(changes, found):
    write(one(0), replace(one(1), **changes))
    with pytest.raises(UserError, match=rf"arena\.parquet, row 1: not a vote: .*{found}"):
        run()


def test_no_votes_and_other_files_are_user_errors():
    with pytest.raises(UserError, match=r"expected votes, found none\. Hold a vote"):
        run()
    write(one(0))
    with pytest.raises(UserError, match="axis"):
        run(axis="taste")
    pickapic.write(FOLDER / "other.parquet", pickapic.rows(1))
    with pytest.raises(UserError, match=r"other\.parquet: expected votes, found columns missing: vote_id"):
        run()
