"""How many pairs there are before ingest: as its source counts rows."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffalign.core.errors import UserError
from diffalign.data import votes
from diffalign.planning.pairs import Pairs, known_pairs, pairs_of
from tests.helpers import pickapic
from tests.helpers.project import make_params
from tests.helpers.voters import vote

VOTES: dict[str, Any] = {"source": "arena", "settings": {"axis": "overall", "failed_checks": "drop"}}
BASE = {"base": {"method": "none"}, "own": {"method": "dpo", "raters": ["r0"]}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, number: int, model: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows = [vote(prompt=f"prompt {n}", model_a=model, model_b=model) for n in range(number)]
    pq.write_table(votes.table(rows), path)


def test_votes_on_rounds_are_none_of_the_arenas(folder: Path) -> None:
    """Of 10 votes a tenth each is held out; 7 on a round's images are in a folder of their own."""
    data = VOTES | {"path": "data/votes", "validation": 0.1, "test": 0.1}
    params = make_params(folder, BASE, data=data)
    assert known_pairs(params) is None
    Path("data/votes").mkdir(parents=True)
    with pytest.raises(UserError, match="expected votes, found none"):
        known_pairs(params)
    write(f"data/votes/{votes.ROUNDS}/arena.parquet", 7, f"{votes.ROUND}r1")
    write("data/votes/arena.parquet", 10, "x")
    assert known_pairs(params) == Pairs(pytest.approx(8), False)


def test_of_several_sources_only_their_own_folders_count(folder: Path) -> None:
    write("data/votes/arena.parquet", 10, "x")
    write(f"data/votes/{votes.ROUNDS}/arena.parquet", 7, f"{votes.ROUND}r1")
    pickapic.write(Path("data/raw/train-0.parquet"), pickapic.rows(5))
    pickapic.write(Path("data/other/train-0.parquet"), pickapic.rows(9))
    sources = {"people": VOTES | {"path": "votes"}, "web": {"source": "pickapic", "path": "raw", "settings": {}}}
    data = {"source": "several", "path": "data", "settings": {"sources": sources}, "validation": 0.0, "test": 0.0}
    assert known_pairs(make_params(folder, BASE, data=data)) == Pairs(15, False)


def test_one_raters_pairs_are_known_after_ingest_only(folder: Path) -> None:
    write("data/votes/arena.parquet", 10, "x")
    params = make_params(folder, BASE, data=VOTES | {"path": "data/votes"})
    everybodys = known_pairs(params)
    assert everybodys and pairs_of(params, params.policies["own"], everybodys) is None
