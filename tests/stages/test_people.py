"""people: votes in, metrics/people.json out; only those on the images that are there count."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffalign.core.files import sha256_bytes
from diffalign.data import votes
from diffalign.evaluation import people_results
from stages import people
from tests.helpers import pickapic
from tests.helpers.galleries import write_gallery
from tests.helpers.project import make_params
from tests.helpers.voters import vote

PROMPTS = ["a red disc", "a blue disc"]


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/votes").mkdir(parents=True)
    for seed, name in enumerate(("dpo", "base")):
        write_gallery(Path("images") / name, PROMPTS, first=10 * seed)
    return make_params(tmp_path, {"dpo": {"method": "dpo"}, "base": {"method": "none"}})


def test_without_votes_the_file_says_so(params):
    people.run(params)
    assert people_results.read().votes == 0
    assert json.loads(people_results.FILE.read_text())["win_rates"] == []


def test_votes_on_these_images_count(params, capsys):
    digests = {
        (name, n): sha256_bytes(pickapic.image(10 * seed + n, format_="PNG"))
        for seed, name in enumerate(("dpo", "base"))
        for n in range(2)
    }
    rows = [
        vote(prompt=p, pair_id=p, model_a="dpo", model_b="base", image_a=digests["dpo", n], image_b=digests["base", n])
        for n, p in enumerate(PROMPTS)
    ]
    old = vote(prompt=PROMPTS[0], pair_id="old", model_a="dpo", model_b="base", image_b=digests["base", 0])
    pq.write_table(votes.table([*rows, old]), "data/votes/arena.parquet")
    people.run(params)
    found = people_results.read()
    assert (found.votes, found.other_images) == (2, 1)
    (row,) = found.win_rates
    assert (row.policy, row.baseline, row.wins, row.win_rate) == ("dpo", "base", 2, 1.0)
    assert "2 votes of 1 raters; left out: 1 on images that aren't there any more" in capsys.readouterr().err
