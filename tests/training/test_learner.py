"""What a training process starts from: policy and reference are one function, whatever the model's config says."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from diffalign.data.batches.pair_batches import PairSource
from diffalign.methods import method as methods
from diffalign.reference.reference import Reference, cached, predictions
from diffalign.runtime import devices
from diffalign.training.dataset import Sources
from diffalign.training.learner import Learner, build, dropout, load_init
from diffalign.training.spec import Spec
from diffalign.training.step import optimizer_step
from stages import ingest, precompute
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params
from tests.helpers.tiny import make_model

POLICIES = {
    "base": {"method": "none"},
    "full": {"method": "dpo", "beta": 2000},
    "lora": {"method": "dpo", "beta": 2000, "lora": {"rank": 4, "alpha": 8, "targets": None}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Spec]]:
    """Runs by policy in a project whose denoiser's config asks for dropout, as a hub's model may."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    config = Path("model/unet/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.3}))
    values = make_params(folder, POLICIES)
    ingest.run(values)
    precompute.run(values)
    devices.set_up(torch.device("cpu"), "fp32")
    runs = {name: specs.spec(values, name) for name in ("full", "lora")}
    shutil.copytree("model/unet", "copy/unet")
    shutil.copytree(make_model(Path("made"), seed=1) / "unet", "other/unet")
    for name in ("full", "lora"):
        runs |= {f"{name}, {held}": specs.spec(values, name, reference_init=held) for held in ("copy", "other")}
    yield runs
    os.chdir(before)


def trained(spec: Spec) -> tuple[Learner, list[dict[str, float] | None]]:
    """A learner after three steps, and what they logged."""
    learner = build(spec, Accelerator(cpu=True))
    method = methods.load(spec.policy, Sources(spec, learner))
    return learner, [optimizer_step(learner, method, spec.policy, step, True) for step in range(3)]


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_policy_and_reference_are_one_function_before_the_first_step(runs: dict[str, Spec], policy: str) -> None:
    learner = build(runs[policy], Accelerator(cpu=True))
    assert dropout(learner.denoiser) == 0.3, "the model is one that asks for dropout"
    batch = next(iter(Sources(runs[policy], learner).source(PairSource).at(0)))
    with torch.no_grad():
        ours = learner.model.denoise(batch.x_t, batch.t, batch.cond)
        again = learner.model.denoise(batch.x_t, batch.t, batch.cond)
    assert torch.equal(ours, again)
    error = (ours - batch.target).square().mean(dim=(1, 2, 3))
    assert learner.reference is not None
    assert torch.equal(torch.cat(learner.reference(batch)), error)
    assert torch.equal(predictions(learner.reference, "a test")(batch.x_t, batch.t, batch.cond), ours)


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_reference_of_its_own_is_that_model_and_stays_it(runs: dict[str, Spec], policy: str) -> None:
    """Of equal weights, the training is that with the init; of others, its errors are that model's throughout."""
    _, plain = trained(runs[policy])
    _, same = trained(runs[f"{policy}, copy"])
    assert same == plain
    learner, logs = trained(runs[f"{policy}, other"])
    assert logs[0] is not None and abs(logs[0]["loss"] - math.log(2)) > 1e-3
    batch = next(iter(Sources(runs[policy], learner).source(PairSource).at(0)))
    held_to = load_init(runs[policy], torch.device("cpu"), "other")
    with torch.no_grad():
        error = (held_to.denoise(batch.x_t, batch.t, batch.cond) - batch.target).square().mean(dim=(1, 2, 3))
    assert learner.reference is not None
    assert torch.equal(torch.cat(learner.reference(batch)), error)
    assert runs[policy].reference_fingerprint is None
    assert runs[f"{policy}, copy"].reference_fingerprint == runs[policy].init_fingerprint
    assert runs[f"{policy}, other"].work() != runs[policy].work()


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_equal_runs_are_equal_bytes(runs: dict[str, Spec], policy: str) -> None:
    """Whatever the state of the global random numbers; the first loss is ln 2, that of a policy at its reference."""
    torch.manual_seed(1)
    one, logs = trained(runs[policy])
    torch.manual_seed(2)
    other, logs_again = trained(runs[policy])
    assert logs == logs_again
    assert logs[0] is not None
    assert logs[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert all(torch.equal(weight, other.trainable[name]) for name, weight in one.trainable.items())


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_the_references_predictions_stay_while_the_policy_trains(runs: dict[str, Spec], policy: str) -> None:
    """They carry no gradient where the policy's do, and after steps they are the init's, not the policy's."""
    fresh = build(runs[policy], Accelerator(cpu=True))
    batch = next(iter(Sources(runs[policy], fresh).source(PairSource).at(0)))
    inputs = batch.x_t, batch.t, batch.cond
    before = predictions(fresh.reference, "a test")(*inputs)
    assert not before.requires_grad
    learner, _ = trained(runs[policy])
    assert torch.equal(predictions(learner.reference, "a test")(*inputs), before)
    ours = learner.model.denoise(*inputs)
    assert ours.requires_grad, "the adapters are on again"
    assert not torch.equal(ours, before)


@pytest.mark.parametrize("reference", [cached, None])
def test_kept_errors_have_no_predictions(reference: Reference | None) -> None:
    with pytest.raises(ValueError, match="DSPO: expected a live reference, which has predictions; got"):
        predictions(reference, "DSPO")
