"""sample, raters, label: a policy's own images for training prompts, compared by a reward or people, to learn from."""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from arena.export import export
from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data import votes
from diffalign.data.batches.pairs import make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.generation import round_images
from stages import label, raters, sample, train
from tests.helpers import pickapic
from tests.helpers.arena_server import Rater, Server
from tests.helpers.project import REPO
from tests.helpers.world import CAPTIONS, make_world

ROUND = {
    "policy": "base",
    "prompts": 5,
    "images_per_prompt": 3,
    "label": "oracle",
    "least_votes": None,
    "temperature": 0.1,
    "rule": "all_pairs",
    "with_base": False,
    "with_rounds": [],
    "reference": "models/policies/base",
    "seed": 3,
}
BY_PEOPLE = ROUND | {"label": "people", "temperature": None, "least_votes": 12, "images_per_prompt": 2}
LATER = {"policy": "next", "with_rounds": ["r1"], "seed": 4}
NEXT = {"method": "dpo", "init": "data/rounds/r1", "steps": 2, "batch_size": 4, "micro_batch_size": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project with captions to learn from and two rounds of the base's images: the oracle's, and people's."""
    folder = tmp_path_factory.mktemp("rounds")
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
        values = make_world(
            folder,
            policies,
            CAPTIONS[:6],
            rounds={"r1": ROUND, "r2": BY_PEOPLE, "r3": ROUND | LATER},
            generate={"batch_size": 4},
        )
        train.run(values, "base")
        sample.run(values, "r1")
        raters.run(values)
        label.run(values, "r1")
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

    sample.run(world[1], "r3")
    label.run(world[1], "r3")
    tables = {name: comparisons.read(Path("data/rounds") / name / "comparisons") for name in ("r1", "r3")}
    first, both = ([row for row in table.to_pylist() if row["split"] == "train"] for table in tables.values())
    assert [row for row in both if row["source"] == "r1"] == first
    assert {row["model_a"] for row in both if row["source"] == "r3"} == {"next"}
    shown = {row[side] for row in both for side in ("image_a", "image_b")}
    assert {key for key, _ in comparisons.iter_images(Path("data/rounds/r3/comparisons"), shown)} == shown
    about = json.loads(Path("data/rounds/r3/round.json").read_text())
    assert about["beside"] == {"data/comparisons": 2, "data/rounds/r1/comparisons": len(first)}


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_people_vote_in_the_arena_and_the_chain_goes_on(world: tuple[Path, Params]) -> None:
    """Three raters in the page's words: anna has a liking, ben ties, carl takes noise for images, and is left out."""
    values = world[1]
    sample.run(values, "r2")
    raters.run(values)
    with pytest.raises(UserError, match=r"0 of 12 answers .*10 images wait in data/samples/r2.*arena --round r2"):
        label.run(values, "r2")
    images = {entry.sha256 for entry in round_images.read("r2").entries}
    with Server(Path.cwd(), of_round="r2") as arena:
        for name in ("anna", "ben", "carl"):
            rater = arena.rater(name)
            while not (state := rater.state())["done"]:
                assert rater.vote(state, answer_of(rater, state, images)).status_code == 200
    told = export(Path("data/arena/arena.db"), Path("data/arena/images"), Path("data/votes"))
    assert told == "answers on rounds' images, 15 on r2's, are in data/votes/rounds/arena.parquet. Next: dvc repro"
    assert votes.read(Path("data/votes")) == []  # no judge, and no source of ingest, sees them
    raters.run(values)
    with pytest.raises(UserError, match=r"10 of 12 answers .*left out: 5 of raters who failed the checks"):
        label.run(values, "r2")
    enough = values.model_copy(
        update={"rounds": values.rounds | {"r2": values.rounds["r2"].model_copy(update={"least_votes": 10})}}
    )
    label.run(enough, "r2")
    about = json.loads(Path("data/rounds/r2/round.json").read_text())
    assert (about["labels"], about["raters"], about["simulated"], about["ties"]) == (10, 2, False, 5)
    table = comparisons.read(Path("data/rounds/r2/comparisons"))
    pairs = make_pairs(table, "train", "majority", ties=True)
    assert [pair.strength for pair in pairs] == [0.75] * 5


def answer_of(rater: Rater, state: dict[str, Any], images: Collection[str]) -> str:
    """What a rater answers who takes the image with the lower SHA-256, ben a tie, and never noise, but for carl."""
    shown = [sha256_bytes(rater.client.get(f"/image/{image}").content) for image in state["images"]]
    noise = [name not in images for name in shown]
    if any(noise):
        return "ab"[noise.index(True) if rater.name == "carl" else noise.index(False)]
    return "tie" if rater.name == "ben" else "ab"[shown.index(min(shown))]


@pytest.mark.filterwarnings("ignore:_NoneStep.value")  # of a library of DVC
def test_dvc_sees_the_chain_without_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    raw["rounds"] = {"r1": ROUND | {"policy": "dpo", "reference": "assets/tiny-sd"}}
    (tmp_path / "dvc.yaml").write_text((REPO / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml_file.dump(raw))
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo() as dvc:
        graph = dvc.index.graph
        needs = {node.addressing: {need.addressing for need in graph.successors(node)} for node in graph}
    assert "train@dpo" in needs["sample@r1"]
    assert needs["label@r1"] == {"ingest", "raters", "sample@r1"}
    assert "label@r1" in needs["train@next"]
    assert needs["raters"] == {"check", "reward@learned"}  # no training: the next one needs it
    assert not any(name.startswith("label") for name in needs["train@dpo"])


def refused(raw: dict[str, Any]) -> str:
    """What is said of params that can't be."""
    with pytest.raises(UserError) as error:
        parse(raw)
    return str(error.value)


def test_params_refuse_rounds_that_cannot_be() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {"r1": ROUND | {"policy": "next", "label": "pickscore"}}
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    raw["policies"]["other"] = raw["policies"]["dpo"] | {"init": "data/rounds/r9"}
    raw["policies"]["given"] = raw["policies"]["dpo"] | {"round": "r9"}
    text = refused(raw)
    assert "rounds.r1.policy: expected a policy before this round, next learns from it" in text
    assert "rounds.r1.label: expected one of rewards or people, oracle" in text
    assert "policies.other.init: expected one of rounds, r1, got 'data/rounds/r9'" in text
    assert "policies.given.round: expected no such key" in text


def test_a_policy_without_weights_is_nobodys_init() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    vectors = {"rater_tokens": {"drop": 0.0, "lr": 1.0e-2, "only": True}}
    raw["policies"]["new"] = raw["policies"]["dpo"] | {"init": "models/policies/dpo"} | vectors
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "models/policies/new"}
    raw["rounds"] = {"r1": ROUND | {"policy": "new", "reference": "models/policies/new"}}
    text = refused(raw)
    for key in ("policies.next.init", "rounds.r1.policy", "rounds.r1.reference"):
        assert f"{key}: expected a model with weights, models/policies/new has raters' vectors only" in text
    raw["policies"]["dpo"]["lora"] = {"rank": 4, "alpha": 4, "targets": None}  # then all weights are published
    parse(raw)


def test_params_refuse_values_that_do_not_suit_people() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {"r1": ROUND | {"policy": "dpo", "label": "people", "rule": "best_worst"}}
    raw["rounds"]["r2"] = ROUND | {"policy": "dpo", "least_votes": 10}
    text = refused(raw)
    assert "rounds.r1.rule: expected all_pairs, since nothing is known before people vote" in text
    assert "rounds.r1.temperature: expected null" in text
    assert "rounds.r1.least_votes: expected the number of people's answers" in text
    assert "rounds.r2.least_votes: expected null, since oracle is a reward" in text


def test_a_round_says_what_its_policies_are_held_to() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {
        "r1": ROUND | {"policy": "dpo", "reference": "models/policies/dpo"},
        "r2": ROUND | {"policy": "next", "reference": "assets/tiny-sd"},
        "r3": ROUND | {"policy": "base", "reference": "models/policies/base"},
    }
    for name, its_round in (("next", "r1"), ("last", "r2"), ("own", "r3")):
        raw["policies"][name] = raw["policies"]["dpo"] | {"init": f"data/rounds/{its_round}"}
    found = parse(raw).policies
    inits = {name: (found[name].init, found[name].reference_init, found[name].held_to) for name in ("next", "last")}
    assert inits["next"] == ("models/policies/dpo", None, "models/policies/dpo")
    assert inits["last"] == ("models/policies/next", "assets/tiny-sd", "assets/tiny-sd")
    assert (found["own"].init, found["own"].reference_init) == ("assets/tiny-sd", None)  # the base has no weights

    raw["rounds"]["r1"]["reference"] = "models/policies/last"
    raw["rounds"]["r3"]["reference"] = "models/policies/nobody"
    raw["rounds"]["r2"]["with_rounds"] = ["r1"]
    raw["rounds"]["r3"]["with_rounds"] = ["r1"]
    raw["policies"]["last"]["reference"] = "none"
    raw["policies"]["sft"]["reference_init"] = "assets/tiny-sd"
    text = refused(raw)
    assert "rounds.r1.reference: expected a policy before this round, last learns from it" in text
    assert "rounds.r2.with_rounds" not in text
    assert "rounds.r3.with_rounds: expected rounds before it, none, since it's the first, got r1" in text
    assert "rounds.r3.reference: expected a model's folder or a policy's, got 'models/policies/nobody'" in text
    assert "policies.last.reference: expected live, since its round names a reference, got 'none'" in text
    assert "policies.sft.reference_init: expected no such key" in text


def test_params_refuse_pairs_that_would_leave_a_rounds_answers_out() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["rounds"] = {"r1": ROUND | {"policy": "dpo"}}
    raw["policies"]["next"] = raw["policies"]["dpo"] | {"init": "data/rounds/r1"}
    assert parse(raw).policies["next"].init == "models/policies/dpo"
    raw["pairs"]["raters"] = ["101"]
    with pytest.raises(UserError, match=r"pairs.raters: expected none, since policies.next learns from a round"):
        parse(raw)
