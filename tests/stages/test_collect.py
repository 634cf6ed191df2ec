"""collect: a policy's own images for training prompts, compared by a reward; the next policy learns from them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from dvc.repo import Repo

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation.rounds import compared
from stages import collect, train
from tests.helpers import pickapic
from tests.helpers.project import REPO
from tests.helpers.world import CAPTIONS, make_world

ROUND = {
    "policy": "base",
    "prompts": 5,
    "images_per_prompt": 3,
    "label": "oracle",
    "temperature": 0.1,
    "rule": "all_pairs",
    "with_base": False,
    "seed": 3,
}
NEXT = {"method": "dpo", "init": "data/rounds/r1", "steps": 2, "batch_size": 4, "micro_batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project with captions to learn from, in which a round of the base's images was collected."""
    folder = tmp_path_factory.mktemp("collect")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rows = [
            pickapic.row(200 + n, caption=caption, jpg_0=pickapic.image(n), jpg_1=pickapic.image(50 + n))
            for n, caption in enumerate(CAPTIONS[6:])
        ]
        pickapic.write(folder / "raw" / "train-00001-of-00002.parquet", rows)
        held_out = [pickapic.row(300 + n, caption=f"a prompt to validate {n}") for n in range(2)]
        pickapic.write(folder / "raw" / "validation_unique-00000-of-00001.parquet", held_out)
        policies = {"base": {"method": "none"}, "next": NEXT}
        values = make_world(folder, policies, CAPTIONS[:6], rounds={"r1": ROUND}, generate={"batch_size": 4})
        train.run(values, "base")
        collect.run(values, "r1")
    return folder, values


@pytest.fixture
def here(world: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world[0])


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_round_compares_images_of_training_prompts_and_keeps_what_probes_need() -> None:
    rows = comparisons.read(Path("data/rounds/r1/comparisons")).to_pylist()
    base = comparisons.read(Path("data/comparisons"))
    known, about = set(comparisons.prompts(base, "train")), json.loads(Path("data/rounds/r1/round.json").read_text())
    own = [row for row in rows if row["split"] == "train"]
    assert {row["prompt"] for row in own} <= known
    assert {(row["source"], row["model_a"], row["rater_id"]) for row in own} == {("r1", "base", "simulated: oracle")}
    assert about["images"] == 15
    assert about["unscored"] % 3 == 0  # all images of prompts that are no captions
    assert about["labels"] == len(own) == 15 - about["unscored"]
    assert Counter(row["prompt"] for row in rows if row["split"] == "validation") == Counter(
        f"a prompt to validate {n}" for n in range(2)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_next_policy_starts_from_the_rounds_policy_and_learns_from_it(world: tuple[Path, Params]) -> None:
    settings = world[1].policies["next"]
    assert (settings.init, settings.round) == ("model", "r1")  # the base has no weights of its own
    train.run(world[1], "next")
    assert json.loads(Path("models/policies/next/policy.json").read_text())["round"] == "r1"
    assert not Path("data/shards").exists()  # it took none of the raters' own


@pytest.mark.filterwarnings("ignore:_NoneStep.value")  # of a library of DVC
def test_dvc_sees_the_chain_without_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    raw["rounds"] = {"r1": ROUND | {"policy": "dpo"}}
    (tmp_path / "dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml_file.dump(raw))
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo() as dvc:
        graph = dvc.index.graph
        needs = {node.addressing: {need.addressing for need in graph.successors(node)} for node in graph}
    assert "train@dpo" in needs["collect@r1"]
    assert "collect@r1" in needs["train@next"]
    assert not any(name.startswith("collect") for name in needs["train@dpo"])


def test_params_refuse_rounds_that_cannot_be() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {"r1": ROUND | {"policy": "next", "label": "pickscore"}}
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    raw["policies"]["other"] = raw["policies"]["dpo"] | {"init": "data/rounds/r9"}
    raw["policies"]["given"] = raw["policies"]["dpo"] | {"round": "r9"}
    with pytest.raises(UserError) as error:
        parse(raw)
    text = str(error.value)
    assert "rounds.r1.policy: expected a policy before this round, next learns from it" in text
    assert "rounds.r1.label: expected one of rewards, oracle" in text
    assert "policies.other.init: expected one of rounds, r1, got 'data/rounds/r9'" in text
    assert "policies.given.round: expected no such key" in text


def test_params_refuse_pairs_that_would_leave_a_rounds_answers_out() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {"r1": ROUND | {"policy": "dpo"}}
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    assert parse(raw).policies["next"].init == "models/policies/dpo"
    raw["pairs"]["raters"] = ["101"]
    with pytest.raises(UserError, match=r"pairs.raters: expected none, since policies.next learns from a round"):
        parse(raw)


def test_best_is_compared_with_worst_whichever_is_shown_first() -> None:
    nan = float("nan")
    sides = Counter[int]()
    for key in range(40):
        (found,) = compared([0.2, nan, 0.9, 0.5], "best_worst", None, (key,))
        assert (found.a, found.b, found.answer) in {(2, 0, "a"), (0, 2, "b")}
        sides[found.a] += 1
    assert min(sides.values()) > 8
    assert [f.answer for f in compared([0.5, 0.5], "best_worst", None, (0,))] == ["tie"]
    assert list(compared([nan, 0.5], "best_worst", None, (0,))) == []
    assert len(list(compared([0.1, 0.2, 0.3, 0.4], "all_pairs", None, (0,)))) == 6


def test_simulated_raters_prefer_by_bradley_terry() -> None:
    """A lead of ln 3 temperatures is preferred by 3 of 4 raters: 1 / (1 + exp(-ln 3)) = 0.75."""
    answers = [next(iter(compared([0.0, 1.0986123 * 0.2], "best_worst", 0.2, (key,)))) for key in range(1500)]
    better = sum((a.answer == "a") == (a.a == 1) for a in answers) / len(answers)
    assert better == pytest.approx(0.75, abs=0.04)
