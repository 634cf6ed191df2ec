"""The study's group on personal policies: the policies and whom they learn from, the matrix and verdicts by hand."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.evaluation.relabel import Asked
from diffalign.training import loop as training
from diffalign.training.spec import read as read_spec
from studies import personal, runner
from studies import personal_world as world
from studies.claims import BASE
from studies.results import listing
from tests.studies.test_study import make_project

HOW = {"resamples": 200, "confidence": 0.95, "seed": 0}


@pytest.fixture
def default(repo: Path) -> Iterator[Params]:
    before = Path.cwd()
    os.chdir(repo)
    yield load()
    os.chdir(before)


def test_each_policy_begins_as_one_before_it_and_new_raters_are_new(default: Params) -> None:
    values = personal.made_params(default, 10, None)
    made = [Path(BASE)]
    for name, policy in values.policies.items():
        if policy.init.startswith("models/policies/"):
            assert Path(policy.init).name in {path.name for path in made}
        made.append(Path(name))
    assert set(world.KNOWN).isdisjoint(world.NEW) and len(world.KNOWN) == 8
    for group in world.GROUPS:
        assert set(values.policies[world.own(group)].raters) == set(world.members(group)) <= set(world.KNOWN)
        new = values.policies[world.new(group)]
        assert new.rater_tokens.only and new.raters == [values.generate.overrides[world.new(group)].rater]
        assert values.generate.overrides[world.view(group)].rater in world.members(group)


def test_a_policys_key_changes_with_that_of_its_init(
    default: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More steps of the shared one make all that begin there again, and not the base."""
    monkeypatch.setattr(personal, "code_hash", lambda stage: stage)  # of the whole closure takes seconds
    for path in ("model", "data/shards"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "data/shards/manifest.json").write_text("{}")
    (tmp_path / personal.FOLDER).mkdir(parents=True)
    (tmp_path / personal.FOLDER / "asked").write_text("x")
    values = personal.made_params(default, 10, None)
    values = values.model_copy(update={"model": values.model.model_copy(update={"path": "model"})})
    shared = values.policies[world.SHARED].model_copy(update={"steps": 7})
    other = values.model_copy(update={"policies": {**values.policies, world.SHARED: shared}})
    before, after = (personal.keys_of(one, tmp_path) for one in (values, other))
    assert {name for name in before if before[name] == after[name]} == {BASE}


def test_the_matrix_and_the_verdicts_by_hand() -> None:
    """Left's own policy is better by left on each of 40 prompts; every other one is the base."""
    base = {group: [0.0] * 40 for group in world.GROUPS}
    names = [
        world.SHARED,
        world.TOKENS,
        *(kind(g) for kind in (world.own, world.view, world.new) for g in world.GROUPS),
    ]
    scores = {BASE: base, **dict.fromkeys(names, base), "own_left": base | {"left": [1.0] * 40}}
    found = personal.summary(scores, list(range(40)), HOW)
    assert found["matrix"]["own_left"]["left"]["win_rate"] == 1.0
    assert found["matrix"]["own_left"]["right"]["win_rate"] == found["matrix"]["shared"]["left"]["win_rate"] == 0.5
    assert BASE not in found["matrix"]
    first, second = found["claims"][:2]
    assert [line["holds"] for line in first["lines"]] == [True, None, None, None] and first[
        "verdict"
    ] == "can't be told"
    assert [line["holds"] for line in second["lines"]].count(True) == 3
    told = personal.text(found)
    assert "left's own policy beats the shared policy: 100.0%" in told
    assert "can't be told: A policy that goes on" in told and "(1 of 4 lines hold)" in told


def test_it_is_listed_and_an_unknown_group_is_refused(default: Params) -> None:
    assert "personal: Personal policies" in listing() and "  policy: view_pale" in listing()
    with pytest.raises(UserError, match=r"expected some of .*, personal, got nonsense"):
        runner.run(default, ["nonsense"])


@pytest.mark.slow
def test_a_personal_study_end_to_end_and_again_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step each, in a tiny project whose raters answer everything; run again, nothing is trained or made."""
    monkeypatch.setattr(personal, "ANSWERS", Asked(answers=12, noise=0.15, tie_below=0.0, seed=0))
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    monkeypatch.setattr("diffalign.training.start.launch", in_this_process)
    before = Path.cwd()
    try:
        values = make_project(tmp_path)
        first = personal.run(values, 3, 1)
        monkeypatch.setattr(personal.train, "run", None)
        monkeypatch.setattr(personal.generate, "run", None)
        assert personal.run(values, 3, 1) == first
    finally:
        torch.use_deterministic_algorithms(False)
        os.chdir(before)
    found = json.loads((tmp_path / personal.OUT).read_text())
    assert len(found["matrix"]) == 2 + 3 * len(world.GROUPS)
    assert all(0 <= cell["win_rate"] <= 1 for row in found["matrix"].values() for cell in row.values())


def in_this_process(module: str, arguments: list[str], *rest: object) -> None:
    path = Path(arguments[0])
    training.run(read_spec(path), path.parent)
