"""raters: what each round's labels depend on, so that other votes and other rewards label no round again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffalign.config.params import Params
from diffalign.core import files
from diffalign.data import votes
from diffalign.data.votes import ROUND, Vote
from stages import raters
from tests.helpers.project import make_params
from tests.helpers.voters import vote

BY_REWARD = {
    "policy": "base",
    "prompts": 5,
    "images_per_prompt": 2,
    "label": "learned",
    "least_votes": None,
    "temperature": None,
    "rule": "all_pairs",
    "with_base": False,
    "with_rounds": [],
    "reference": "models/policies/base",
    "seed": 3,
}
BY_PEOPLE = BY_REWARD | {"label": "people", "least_votes": 1}


def write(*given: Vote) -> None:
    path = Path("data/votes/rounds/arena.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(votes.table(given), path)


def of(name: str, **changes: object) -> Vote:
    return vote(**{"model_a": f"{ROUND}{name}", "model_b": f"{ROUND}{name}", **changes})


def params(folder: Path, batch_size: int = 8) -> Params:
    rewards = {"oracle": {}, "learned": {"path": "models/rewards/mine", "batch_size": batch_size}}
    rounds = {"by_reward": BY_REWARD, "first": BY_PEOPLE, "second": BY_PEOPLE}
    return make_params(folder, {"base": {"method": "none"}}, rounds=rounds, rewards=rewards)


def test_each_round_has_its_own_votes_or_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raters.run(params(tmp_path))  # nobody has voted, nothing is trained
    assert votes.read(Path("data/raters/first")) == []
    assert json.loads(Path("data/raters/by_reward/reward.json").read_text())["trained"] is None
    check = of("second", kind="noise", expected="b", model_b=None, pair_id="check")
    write(of("first"), of("second"), check)
    raters.run(params(tmp_path))
    before = {name: files.hash_folder(Path("data/raters") / name) for name in ("first", "second", "by_reward")}
    assert votes.read(Path("data/raters/second")) == [of("second"), check]
    write(of("first"), of("second"), check, of("second", pair_id="another"))
    files.write_json(Path("metrics/rewards/mine.json"), {"trained": "anew"})
    raters.run(params(tmp_path))
    after = {name: files.hash_folder(Path("data/raters") / name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"second", "by_reward"}
