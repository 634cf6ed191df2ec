"""Curated fine-tuning through the stage: what is kept, where it's written, and that a run is bound to its list."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.data.batches.curated_file import FILE, Curated
from diffalign.data.batches.unpaired_batches import CuratedSource
from diffalign.reporting.sections.training import told
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from stages import ingest, precompute, train
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params

VOTES = {"by": "votes", "keep": 0.25, "per_prompt": None, "least": None}
POLICIES = {
    "base": {"method": "none"},
    "voted": {"method": "sft", "steps": 3, "curate": VOTES},
    "small": {"method": "sft", "steps": 3, "curate": VOTES | {"by": "jpeg_compressibility"}},
    "large": {"method": "sft", "steps": 3, "swap_labels": True, "curate": VOTES | {"by": "jpeg_compressibility"}},
    "none_left": {"method": "sft", "steps": 3, "curate": VOTES | {"least": 1.5}},
}
REWARDS = {"rewards": {"oracle": {}, "jpeg_compressibility": {}}}


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder, rows=12)
    values = make_params(folder, POLICIES, **REWARDS)
    ingest.run(values)
    precompute.run(values)
    yield folder
    os.chdir(before)
    torch.use_deterministic_algorithms(False)


def kept(policy: str) -> Curated:
    return records.read(Path("models/policies") / policy / FILE, Curated, "train")


def test_the_kept_list_is_published_said_and_trained_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quarter of the images; each in the shards, and no other in a batch; policy.json counts them."""
    values = make_params(project, POLICIES, **REWARDS)
    curve = specs.train_here(values, "voted", monkeypatch)
    assert [line["step"] for line in curve] == [1, 2, 3] and "winner_change" not in curve[-1]
    found = kept("voted")
    assert len(found.kept) == -(-found.images // 4) and all(one.score > 0.5 for one in found.kept)
    assert found.told() in capsys.readouterr().err
    assert told(Path("models/policies/voted") / FILE).startswith(f"Curated by votes: {len(found.kept)} of")
    assert json.loads(Path("models/policies/voted/policy.json").read_text())["images"] == len(found.kept)

    file = train.curate(values, "voted", values.policies["voted"])  # type: ignore[arg-type]
    run = specs.spec(values, "voted").model_copy(update={"curated": file})
    source = Sources(run, build(run, make_accelerator("cpu", 1, "fp32"))).source(CuratedSource)
    assert {label.image for label in source.kept} == {one.image for one in found.kept}
    assert sum(len(batch.t) for batch in source.at(0)) == run.policy.batch_size


def test_a_reward_decides_and_a_control_keeps_the_worst(project: Path) -> None:
    """The run's name is bound to its list: another one is other work. Scores are asked for once."""
    values = make_params(project, POLICIES, **REWARDS)
    small, large = (train.curate(values, name, values.policies[name]) for name in ("small", "large"))  # type: ignore[arg-type]
    first, last = (records.read(Path(str(file)), Curated, "train").kept for file in (small, large))
    assert first[-1].score > last[-1].score and not {one.image for one in first} & {one.image for one in last}
    assert train.curate(values, "small", values.policies["small"]) == small  # type: ignore[arg-type]
    run = specs.spec(values, "small")
    owners = {run.model_copy(update={"curated": file}).owner() for file in (small, large, None)}
    assert len(owners) == 3


def test_a_reward_model_must_be_watched_by_dvc(project: Path) -> None:
    learned = {"rewards": {"oracle": {}, "learned": {"path": "models/rewards/learned", "batch_size": 4}}}
    policies = {"base": {"method": "none"}, "x": {"method": "sft", "curate": VOTES | {"by": "learned"}}}
    with pytest.raises(UserError, match=r"policies\.x\.curate\.by: expected one whose path is rollouts"):
        make_params(project, policies, **learned)
    make_params(project, policies, **learned, rollouts={"rewards_from": "models/rewards"})


def test_nothing_left_is_an_error_that_says_why(project: Path) -> None:
    values = make_params(project, POLICIES, **REWARDS)
    with pytest.raises(UserError, match=r"policies\.none_left\.curate: expected images to be left, found none of"):
        train.run(values, "none_left")
    with pytest.raises(UserError, match=r"curate\.by: expected votes or one of rewards, votes, jpeg_compress"):
        make_params(
            project, {"base": {"method": "none"}, "x": {"method": "sft", "curate": VOTES | {"by": "nobody"}}}, **REWARDS
        )
