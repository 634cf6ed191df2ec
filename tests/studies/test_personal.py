"""The study's group on personal policies: the policies and whom they learn from, seeds, kept results, a tiny one."""

import json
import os
from pathlib import Path

import pytest
import torch

from diffalign.config.load import load
from diffalign.core.errors import UserError
from diffalign.evaluation.relabel import Asked
from diffalign.training import loop as training
from diffalign.training.spec import read as read_spec
from studies import kept, personal, runner
from studies import personal_world as world
from studies.claims import BASE
from studies.job import PROMPTS, Study
from studies.results import listing
from tests.helpers.study_results import personal_seed
from tests.studies.test_study import make_project

FIRST, SECOND, THIRD = world.SEEDS


@pytest.fixture
def job(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The default params in an empty folder with the assets: a fresh clone, as far as results need one."""
    values = load(repo / "params.yaml")
    (tmp_path / "assets").symlink_to(repo / "assets")
    monkeypatch.chdir(tmp_path)
    return Study(values, PROMPTS, None, tmp_path)


def test_each_policy_begins_as_one_before_it_and_new_raters_are_new(job: Study) -> None:
    values = personal.made_params(job, FIRST)
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


def test_seeds_differ_in_every_trainings_seed_and_in_nothing_else(job: Study) -> None:
    """So the base and its noise are the same, and images of all seeds are compared with the same ones."""
    first, second = (personal.made_params(job, name).model_dump() for name in (FIRST, SECOND))
    assert first["policies"]["shared"]["seed"] == job.values.policies["dpo"].seed == 0
    for before, after in zip(first["policies"].values(), second["policies"].values(), strict=True):
        assert (before.pop("seed", None), after.pop("seed", None)) in ((0, 1), (None, None))
    assert first == second
    assert len({personal.folder_of(job, name) for name in world.SEEDS}) == 3


def test_a_policys_key_changes_with_that_of_its_init(job: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps of the shared one make all that begin there again, and not the base."""
    monkeypatch.setattr(personal, "code_hash", lambda stage: stage)  # of the whole closure takes seconds
    for path in ("model", "data/shards"):
        (job.root / path).mkdir(parents=True)
    (job.root / "data/shards/manifest.json").write_text("{}")
    (job.root / "asked").write_text("x")
    values = personal.made_params(job, FIRST)
    values = values.model_copy(update={"model": values.model.model_copy(update={"path": "model"})})
    shared = values.policies[world.SHARED].model_copy(update={"steps": 7})
    other = values.model_copy(update={"policies": {**values.policies, world.SHARED: shared}})
    before, after = (personal.keys_of(one, job.root, job.root) for one in (values, other))
    assert {name for name in before if before[name] == after[name]} == {BASE}


def test_kept_seeds_count_where_the_settings_are_the_same(job: Study) -> None:
    for name in (FIRST, THIRD):
        kept.write(job.kept, name, personal_seed({}, settings=personal.settings(job, name)))
    assert list(personal.results(job)) == [FIRST, THIRD] and job.kept == job.root / "studies/results"
    guided = job.values.generate.model_copy(update={"steps": 11})
    assert personal.results(Study(job.values.model_copy(update={"generate": guided}), PROMPTS, None, job.root)) == {}
    quick = Study(job.values, PROMPTS, 2, job.root)
    assert quick.kept == job.root / "runs/study/results" and personal.results(quick) == {}
    assert len({personal.settings(one, name) for one in (job, quick) for name in world.SEEDS}) == 6


def test_from_kept_seeds_the_metrics_are_made_and_only_the_others_are_trained(
    job: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data the study says what lacks; with it the third seed is made, and the metrics know it."""
    for name in (FIRST, SECOND):
        kept.write(job.kept, name, personal_seed({"own_left": "left"}, settings=personal.settings(job, name)))
    with pytest.raises(UserError, match="make demo"):
        runner.run(job.values, [world.NAME])
    assert "2 of 3 seeds" in personal.write(job)
    made = []

    def make(job: Study, name: str) -> kept.Result:
        made.append(name)
        found = personal_seed({"own_left": "left"}, settings=personal.settings(job, name))
        kept.write(job.kept, name, found)
        return found

    monkeypatch.setattr(personal, "make", make)
    monkeypatch.setattr(runner, "check_inputs", lambda *_: None)
    text = runner.run(job.values, [world.NAME])
    assert made == [THIRD] and "left's own policy beats the shared policy: 100.0% (91.2–100.0%)\n" in text
    assert json.loads(personal.OUT.read_text())["seeds"] == [0, 1, 2]
    monkeypatch.setattr(personal, "make", None)
    assert runner.run(job.values, [world.NAME]) == text


def test_it_is_listed_and_an_unknown_group_is_refused(job: Study) -> None:
    assert "personal: Personal policies" in listing() and "  policy: view_pale" in listing()
    with pytest.raises(UserError, match=r"expected some of .*, personal, got nonsense"):
        runner.run(job.values, ["nonsense"])


@pytest.mark.slow
def test_a_personal_study_end_to_end_and_again_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step each, one seed, in a tiny project whose raters answer everything; without its results made again from
    what its folder has, and with them from nothing."""
    monkeypatch.setattr(personal, "ANSWERS", Asked(answers=12, noise=0.15, tie_below=0.0, seed=0))
    monkeypatch.setattr(world, "SEEDS", {SECOND: 1})
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    monkeypatch.setattr("diffalign.training.start.launch", in_this_process)
    before = Path.cwd()
    try:
        values = make_project(tmp_path)
        first = runner.run(values, [world.NAME], 3, 1)
        monkeypatch.setattr(personal.train, "run", None)
        monkeypatch.setattr(personal.generate, "run", None)
        file = kept.file(tmp_path / "runs/study/results", SECOND)
        result = json.loads(file.read_text())
        file.unlink()
        assert runner.run(values, [world.NAME], 3, 1) == first
        assert json.loads(file.read_text()) == result
    finally:
        torch.use_deterministic_algorithms(False)
        os.chdir(before)
    found = json.loads((tmp_path / personal.OUT).read_text())
    assert found["seeds"] == [1] and len(found["policies"]) == 2 + 3 * len(world.GROUPS)
    assert all(0 <= cell["win_rate"] <= 1 for row in found["policies"] for cell in row["by"].values())
    assert set(result["scores"]) == {BASE, *(row["name"] for row in found["policies"])} and len(result["indices"]) == 3


def in_this_process(module: str, arguments: list[str], *rest: object) -> None:
    path = Path(arguments[0])
    training.run(read_spec(path), path.parent)
