"""Policies conditioned on raters: they begin as their reference, resume bit for bit, and take in a new rater alone."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import hash_folder
from diffalign.data.batches.pair_batches import PairSource
from diffalign.generation import gallery
from diffalign.methods.pairwise import PairMethod
from diffalign.models import policies, rater_tokens
from diffalign.runtime import devices
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from diffalign.training.resume import restore
from stages import generate, ingest, precompute, train
from tests.helpers import forked, killed, pickapic, specs
from tests.helpers.project import make_params
from tests.helpers.specs import train_here
from tests.helpers.spread import NO_SOURCE, kept, steps
from tests.helpers.tiny import make_model

TOKENS: dict[str, Any] = {"drop": 0.25, "lr": 0.02, "only": False}
LORA = {"rank": 4, "alpha": 8, "targets": None}
POLICIES: dict[str, Any] = {
    "base": {"method": "none"},
    "full": {"method": "dpo", "raters": ["100", "201"], "rater_tokens": TOKENS},
    "lora": {"method": "dpo", "rater_tokens": TOKENS, "lora": LORA, "steps": 2},
    "new": {
        "method": "dpo",
        "init": "models/policies/full",
        "raters": ["302"],
        "rater_tokens": TOKENS | {"only": True},
    },
    "view": {"method": "none", "init": "models/policies/full"},
    "lora_view": {"method": "none", "init": "models/policies/lora"},
    "lora_new": {
        "method": "dpo",
        "init": "models/policies/lora",
        "raters": ["302"],
        "rater_tokens": TOKENS | {"only": True},
        "steps": 2,
    },
}
OVERRIDES = {"view": {"rater": "201"}, "new": {"rater": "302"}, "lora_view": {"rater": "201"}}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, and answers of three raters."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_model(folder / "model")
    rows = [row | {"user_id": (100, 201, 302)[n % 3]} for n, row in enumerate(pickapic.rows(18))]
    pickapic.write(folder / "raw" / "train-0.parquet", rows)
    pickapic.write(folder / "raw" / "test_unique-0.parquet", pickapic.rows(4, start=30))
    made = make_params(folder, POLICIES, generate={"overrides": OVERRIDES})
    ingest.run(made)
    precompute.run(made)
    yield made
    os.chdir(before)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_it_begins_as_its_reference(values: Params, name: str) -> None:
    """The first loss is ln 2; afterwards the known raters have vectors, and the reference is told of nobody."""
    devices.set_up(torch.device("cpu"), "fp32")
    spec = specs.spec(values, name)
    learner = build(spec, make_accelerator("cpu", 1, "fp32"))
    source = Sources(spec, learner).source(PairSource)
    batch = next(iter(source.at(0)))
    assert learner.reference is not None
    before = [error.clone() for error in learner.reference(batch)]
    logs = steps(learner, spec, 0, 2)
    assert logs[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    moved = rater_tokens.of(learner.denoiser).vectors.detach().abs().sum(dim=1)
    assert len(moved) == len(spec.token_rows) and (moved > 0).all()
    assert all(torch.equal(a, b) for a, b in zip(learner.reference(batch), before, strict=True))


def test_pairs_name_their_rater_and_some_are_nobodys(values: Params) -> None:
    spec = specs.spec(values, "lora")
    assert spec.token_rows == ("100", "201", "302")
    learner = build(spec, make_accelerator("cpu", 1, "fp32"))
    source = Sources(spec, learner).source(PairSource)
    rows = torch.cat([batch.cond["raters"][: len(batch)] for step in range(20) for batch in source.at(step)])
    assert set(rows.tolist()) == {-1, 0, 1, 2}
    assert (rows == -1).float().mean() == pytest.approx(0.25, abs=0.1)
    batch = next(iter(source.at(0)))
    assert torch.equal(*batch.cond["raters"].chunk(2)), "winner and loser are one rater's"


def test_it_goes_on_where_it_was_bit_for_bit(values: Params) -> None:
    """Three steps; and the last two by a learner that knows the checkpoint only."""
    spec, accelerator = specs.spec(values, "full"), make_accelerator("cpu", 1, "fp32")
    undisturbed, first, again = (build(spec, accelerator) for _ in range(3))
    steps(undisturbed, spec, 0, 3)
    steps(first, spec, 0, 1)
    restore(again, PairMethod(NO_SOURCE), kept(first))
    steps(again, spec, 1, 3)
    expected, found = kept(undisturbed), kept(again)
    assert f"weights.{rater_tokens.WEIGHT}" in expected
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def whole(values: Params, processes: int) -> Path:
    work = Path(f"runs/whole-{processes}")
    forked.prepare(work, values, "full", processes)
    assert forked.finish(forked.start(work, processes)) == [0] * processes, (work / "error.txt").read_text()
    return work


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bytes(values: Params) -> None:
    undisturbed, work = whole(values, 1), Path("runs/killed")
    forked.prepare(work, values, "full", 1)
    Path("kill-at").write_text("5")
    assert forked.finish(forked.start(work, 1, killed.work)) == [-9]
    assert forked.finish(forked.start(work, 1)) == [0]
    assert hash_folder(work / "out") == hash_folder(undisturbed / "out")


@pytest.mark.slow
def test_two_processes_train_what_one_does(values: Params) -> None:
    """In DDP and in FSDP2, of whose vectors each process has a share: within 2% of the way that they went."""
    one = load_file(whole(values, 1) / "out" / rater_tokens.FILE)["vectors"]
    found = [load_file(whole(values, 2) / "out" / rater_tokens.FILE)["vectors"]]
    machine = specs.MACHINE.model_copy(update={"processes": 2, "parallel": "fsdp"})
    work = specs.write(Path("runs/fsdp"), specs.spec(values, "full", machine)).parent
    assert forked.finish(forked.start(work, 2)) == [0, 0], (work / "error.txt").read_text()
    found.append(load_file(work / "out" / rater_tokens.FILE)["vectors"])
    assert one.norm() > 0 and all((other - one).norm() < 0.02 * one.norm() for other in found)


def test_a_new_rater_fits_its_vector_only(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other weight is there to train, or published; the raters before keep theirs; each has pictures of its own."""
    train_here(values, "full", monkeypatch)
    lines = train_here(values, "new", monkeypatch)
    assert lines[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    folder = Path("models/policies/new")
    assert sorted(path.name for path in folder.iterdir()) == ["checksums.json", "policy.json", rater_tokens.FILE]
    assert json.loads((folder / "policy.json").read_text())["adapter"] == "none"
    before, after = (rater_tokens.read(Path(f"models/policies/{name}")) for name in ("full", "new"))
    assert before and after and before.ids == ("100", "201") and after.ids == ("100", "201", "302")
    assert torch.equal(after.vectors[:2], before.vectors) and after.vectors[2].any()
    train.run(values, "view")
    pictures = {}
    for name in ("full", "view", "new"):
        generate.run(values, name)
        found = gallery.read(Path("images") / name)
        pictures[name] = [found.pixels(entry).tolist() for entry in found.entries]
    assert found.made["rules"] == {"rater": {"id": "302"}} and found.noise == (0, "")
    assert pictures["full"] != pictures["view"] != pictures["new"] != pictures["full"]


@pytest.mark.slow
def test_a_lora_policy_has_vectors_beside_its_adapters(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view is a LoRA too; where only vectors go on from it, all weights are published, the adapters merged in."""
    found = {}
    for name in ("lora", "lora_view", "lora_new"):
        train_here(values, name, monkeypatch)
        model = policies.load_policy("sd15", "model", Path("models/policies") / name)
        found[name] = rater_tokens.of(model.denoiser).vectors
        assert rater_tokens.of(model.denoiser).ids == ("100", "201", "302")
    assert (Path("models/policies/lora_view") / policies.LORA).is_file()
    assert (Path("models/policies/lora_new") / "unet").is_dir()
    assert torch.equal(found["lora"], found["lora_view"]) and torch.equal(found["lora"][:2], found["lora_new"][:2])
    assert not torch.equal(found["lora"][2], found["lora_new"][2])
    generate.run(values, "lora_view")


def test_what_cant_be_conditioned_is_refused(values: Params) -> None:
    raw = values.model_dump(mode="json")
    raw["pairs"]["rule"] = "majority"
    raw["policies"]["new"]["lora"] = LORA
    raw["policies"]["sft"] = raw["policies"]["base"] | {"method": "sft", "curate": None, "rater_tokens": TOKENS}
    raw["policies"]["sft"] |= {"optimizer": "adafactor"}
    with pytest.raises(UserError) as error:
        parse(raw)
    for line in (
        "policies.full.rater_tokens: expected null with pairs.rule majority",
        "policies.new.lora: expected null with rater_tokens.only true",
        "policies.sft.rater_tokens: expected null but with method dpo, got method 'sft'",
        "policies.sft.optimizer: expected adamw with rater_tokens, got 'adafactor'",
    ):
        assert line in str(error.value)
