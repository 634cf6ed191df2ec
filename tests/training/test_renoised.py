"""Methods on a policy's own pictures, on real little models of each family: resumed, and spread over processes."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.params import Params
from diffalign.methods import method as methods
from diffalign.methods.pairwise import PairMethod
from diffalign.methods.policy_gradients import Rows
from diffalign.rollouts.source import RolloutSource
from diffalign.training.dataset import Sources
from diffalign.training.learner import Learner, build, make_accelerator
from diffalign.training.resume import restore
from stages import ingest, precompute
from tests.helpers import forked, pickapic, specs
from tests.helpers.project import METHODS, make_params
from tests.helpers.spread import NO_SOURCE, kept, steps
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

FAMILIES: dict[str, Callable[[Path], Path]] = {"sd15": make_model, "sdxl": make_sdxl, "sd3": make_sd3}
LORA = {"lora": {"rank": 4, "alpha": 8, "targets": None}, "lr": 1e-2}
POLICIES: dict[str, Any] = {
    "base": {"method": "none"},
    # The old policy lags behind, and adapters are switched off for the KL.
    "nft": {"method": "nft", "old": {"start": 0, "rate": 0.25, "most": 0.5}},
    "nft_lora": {"method": "nft", **LORA},
    "online_dpo": {"method": "online_dpo", "timestep_density": "logit_normal", "stratified": True},
    "raft": {"method": "raft", "reference": "none"},
    "grpo": {"method": "grpo", "trust": "divergence", "kl": {"weight": 0.1, "space": "transition"}},
}
NOISY = {"name": "flow_sde", "noise": 0.7}


def slowly(fast: str, names: Iterable[str]) -> list[Any]:
    """Parameters of a test of which one is fast, the others slow."""
    return [name if name == fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module", params=slowly("sd15", FAMILIES))
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project of each family with shards."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    FAMILIES[request.param](folder / "model")
    pickapic.write(folder / "raw" / "train-00000-of-00001.parquet", pickapic.rows(8))
    policies = {name: in_family(request.param, policy) for name, policy in POLICIES.items()}
    values = make_params(folder, policies, model={"family": request.param})
    ingest.run(values)
    precompute.run(values)
    yield values
    os.chdir(before)
    torch.use_deterministic_algorithms(False)


def in_family(family: str, policy: dict[str, Any]) -> dict[str, Any]:
    """A policy whose rollouts, if any, have a sampler of the family."""
    rollout = METHODS[policy["method"]].get("rollout")
    if rollout is None or family != "sd3":
        return policy
    sampler = NOISY if "moves" in METHODS[policy["method"]] else {"name": "flow_euler"}
    return policy | {"rollout": rollout | {"sampler": sampler}}


@pytest.mark.parametrize("name", slowly("nft_lora", [name for name in POLICIES if name != "base"]))
def test_it_goes_on_where_it_was_bit_for_bit(project: Params, name: str) -> None:
    """Three steps; and the last two by a learner that knows the checkpoint only, the old weights among it."""
    spec, accelerator = specs.spec(project, name), make_accelerator("cpu", 1, "fp32")
    whole, first, again = (build(spec, accelerator) for _ in range(3))
    logs = steps(whole, spec, 0, 3)
    steps(first, spec, 0, 1)
    start = kept(first)
    methods.load(spec.policy, Sources(spec, again))
    restore(again, PairMethod(NO_SOURCE), start)
    steps(again, spec, 1, 3)
    expected, found = kept(whole), kept(again)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(not torch.equal(start[key], value) for key, value in expected.items() if key.startswith("weights."))
    assert any(key.startswith("old.") for key in start) == name.startswith(("nft", "grpo"))
    assert all(line["grad_norm"] > 0 and line["dropped"] == 0 and line["reward_std"] > 0 for line in logs)
    if name.startswith("nft"):
        assert logs[0]["old_change"] == logs[0]["kl"] == 0 < min(logs[2]["kl"], logs[2]["old_change"])


def test_a_learning_rate_of_0_keeps_ratios_1_and_pictures_as_they_were(project: Params) -> None:
    """Over two rollouts of two updates each; 1e-60 is 0 in float32, and a rate of 0 isn't allowed."""
    spec, learner = specs.spec(project, "grpo", lr=1e-60), build_alone(project, "grpo")
    source = Sources(spec, learner).source(RolloutSource)

    def picture() -> torch.Tensor:
        return source.roll(learner.model.denoise, source.pieces(0, 0)[0], 0).states[-1]

    weights, before = {name: weight.detach().clone() for name, weight in learner.trainable.items()}, picture()
    logs = steps(learner, spec, 0, 4)
    assert all(line["ratio_away"] == line["clip_share"] == 0 < line["grad_norm"] for line in logs)
    assert all(torch.equal(learner.trainable[name], weight) for name, weight in weights.items())
    assert torch.equal(picture(), before)


def test_a_ratio_is_1_in_another_batch_shape_but_for_rounding(project: Params) -> None:
    """Moves were made four at a time; each alone has the log-probability that was kept."""
    spec, learner = specs.spec(project, "grpo"), build_alone(project, "grpo")
    policy, method = learner.model.denoise, methods.load(spec.policy, Sources(spec, learner))
    away = []
    with torch.no_grad():
        for batch in method.batches(policy, learner.reference, 0):
            assert len(batch.slots) == 4 and batch.log_probs is not None
            for row in range(4):
                alone = one_row(batch, row)
                _, logs = method.loss(policy, learner.reference, alone, True)
                away.append(float(logs["ratio_away"]) / alone.share)
    assert len(away) > 8 and max(away) < 1e-6


def build_alone(project: Params, name: str) -> Learner:
    return build(specs.spec(project, name), make_accelerator("cpu", 1, "fp32"))


def one_row(batch: Rows, row: int) -> Rows:
    """A row of a micro-batch as a micro-batch."""
    rows = {name: value for name, value in vars(batch).items() if name != "share" and value is not None}
    return replace(batch, **{name: value[row : row + 1] for name, value in rows.items()})


@pytest.mark.nightly
@pytest.mark.parametrize("project", ["sd15"], indirect=True)
def test_two_processes_train_what_one_does(project: Params) -> None:
    """In DDP and in FSDP2, of whose old weights each process has a share: within 2% of the way that weights went."""
    found = {"start": load_file("model/unet/diffusion_pytorch_model.safetensors")}
    for parallel, processes in (("ddp", 1), ("ddp", 2), ("fsdp", 2)):
        work = Path(f"runs/{parallel}-{processes}")
        machine = specs.MACHINE.model_copy(update={"processes": processes, "parallel": parallel})
        specs.write(work, specs.spec(project, "nft", machine, steps=3))
        assert forked.finish(forked.start(work, processes)) == [0] * processes, (work / "error.txt").read_text()
        found[work.name] = load_file(work / "out/unet/diffusion_pytorch_model.safetensors")
    start, one, *others = (torch.cat([state[key].flatten() for key in found["start"]]) for state in found.values())
    assert all((other - one).norm() < 0.02 * (one - start).norm() for other in others)
