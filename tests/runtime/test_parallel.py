"""DDP and FSDP2 in two real processes: they train what one process does, and a checkpoint of one is the other's."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairSource
from diffalign.methods.pairwise import PairMethod
from diffalign.monitoring.alarms import best
from diffalign.monitoring.curve import points
from diffalign.reference.reference import pair_errors
from diffalign.runtime import environment
from diffalign.runtime.parallel import STRATEGIES, Replicated, blocks
from diffalign.training.learner import build, make_accelerator
from diffalign.training.resume import restore
from diffalign.training.spec import Spec
from stages import ingest, precompute
from tests.helpers import pickapic, specs, tiny_rewards
from tests.helpers.project import REPO, make_inputs, make_params
from tests.helpers.spread import NO_SOURCE, kept, steps

POLICIES = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000, "micro_batch_size": 2, "ema": 0.9},
    "lora": {
        "method": "dpo",
        "beta": 2000,
        # proj_in lies outside the blocks that are sharded by themselves
        "lora": {"rank": 4, "alpha": 8, "targets": ["to_q", "proj_in"]},
    },
    "sft": {"method": "sft", "micro_batch_size": 2},
    # Sweeps differentiate forwards of the network that is spread, outside of what the processes exchange: through a
    # fixed number of moves, through one that is drawn, or through none, after a forward without gradients.
    "draft": {
        "method": "draft",
        "micro_batch_size": 2,
        "kl": {"weight": 0.1, "space": "output"},
        "gradient": {"steps": 3, "through": "exact", "sees": "end", "renoise": 0},
    },
    "alignprop": {"method": "alignprop", "micro_batch_size": 2},
    "drtune": {"method": "drtune", "micro_batch_size": 2},
}
TRAINED = ("dpo", "lora", "sft", "draft", "alignprop", "drtune")
JUDGED = {"rewards_from": "judge"}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    pickapic.write(folder / "raw" / "validation_unique-00000-of-00001.parquet", pickapic.rows(6, start=100))
    tiny_rewards.make("learned", folder / "judge")
    values = make_params(folder, POLICIES, rollouts=JUDGED)
    ingest.run(values)
    precompute.run(values)
    yield folder
    os.chdir(before)


def make_spec(project: Path, name: str, **changes: Any) -> Spec:
    return specs.spec(make_params(project, POLICIES, rollouts=JUDGED), name, **changes)


@pytest.fixture(scope="module")
def two(project: Path) -> tuple[dict[str, Any], dict[str, State]]:
    """What two processes logged, and their states by run: NAME-ddp, NAME-fsdp, ..."""
    for name in TRAINED:
        specs.write(project / "specs" / name, make_spec(project, name))
    out = project / "spread"
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += ["-m", "tests.helpers.spread", str(project / "specs"), str(out)]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    states = {file.stem: load_file(file) for file in out.glob("*.safetensors")}
    return json.loads((out / "logs.json").read_text()), states


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_close(one: State, other: State, prefix: str = "weights.") -> None:
    """To the tolerance of sums in another order, after three steps of AdamW at a rate of 1e-3."""
    names = [name for name in one if name.startswith(prefix)]
    assert names
    assert one.keys() == other.keys()
    for name in names:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_fsdp_is_ddp_is_one_process(project: Path, two: tuple[dict[str, Any], dict[str, State]], name: str) -> None:
    logs, states = two
    spec = make_spec(project, name)
    alone = build(spec, make_accelerator("cpu", 1, "fp32"))
    start = kept(alone)
    points = steps(alone, spec, 0, 3)
    expected = kept(alone)
    moved = [states[f"{name}-fsdp"][key] - start[key] for key in expected if key.startswith("weights.")]
    assert max(change.abs().max().item() for change in moved) > 1e-3, "training moved the weights"
    for strategy in STRATEGIES:
        found = {key: value for key, value in states[f"{name}-{strategy}"].items() if not key.startswith("published.")}
        assert_close(found, expected)
        for a, b in zip(logs[f"{name}-{strategy}"], points, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_probes_see_what_is_published(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    """Also the average where there's one, of whole weights and of shares; and training goes on with its own."""
    logs, states = two
    assert logs["probes see what is published"] == [True] * 6
    name = "conv_in.weight"
    for strategy in STRATEGIES:
        state = states[f"dpo-{strategy}"]
        assert not torch.equal(state[f"published.{name}"], state[f"weights.{name}"])


@pytest.mark.slow
def test_what_runs_is_fsdp(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    """Every trainable parameter and moment is a DTensor, of which a process has half."""
    logs, _ = two
    assert logs["sharded"]
    assert logs["moments sharded"]
    assert logs["local"] * 2 == logs["global"]


@pytest.mark.slow
def test_a_checkpoint_of_fsdp_goes_on_in_fsdp_bit_for_bit(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    _, states = two
    whole = {key: value for key, value in states["dpo-fsdp"].items() if not key.startswith("published.")}
    assert same(states["resumed-fsdp"], whole)


@pytest.mark.slow
def test_a_checkpoint_of_fsdp_goes_on_in_ddp(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    _, states = two
    assert_close(states["resumed-ddp"], {k: v for k, v in states["dpo-ddp"].items() if not k.startswith("published.")})


@pytest.mark.slow
def test_a_checkpoint_of_fsdp_goes_on_in_one_process(
    project: Path, two: tuple[dict[str, Any], dict[str, State]]
) -> None:
    """Its weights and moments, after the first of three steps, are restored there, and the other two are DDP's."""
    _, states = two
    spec = make_spec(project, "dpo")
    alone = build(spec, make_accelerator("cpu", 1, "fp32"))
    restore(alone, PairMethod(NO_SOURCE), states["first-fsdp"])
    assert same(kept(alone), states["first-fsdp"])
    steps(alone, spec, 1, 3)
    assert_close(kept(alone), {k: v for k, v in states["dpo-ddp"].items() if not k.startswith("published.")})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradients_are_reduced_once_a_step(two: tuple[dict[str, Any], dict[str, State]], strategy: str) -> None:
    """A process's four pairs are four micro-batches or one: as many reductions over the processes."""
    logs, _ = two
    four, one = logs[f"reductions-{strategy}"]
    assert four == one > 1


@pytest.mark.slow
def test_what_is_published_is_the_average(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    _, states = two
    for strategy in STRATEGIES:
        state = states[f"dpo-{strategy}"]
        for name in [key.removeprefix("published.") for key in state if key.startswith("published.")]:
            assert torch.equal(state[f"published.{name}"], state[f"average.{name}"])
        assert_close(states["dpo-fsdp"], states["dpo-ddp"], "average.")
        assert torch.equal(
            states[f"sft-{strategy}"]["published.conv_in.weight"], states[f"sft-{strategy}"]["weights.conv_in.weight"]
        )


@pytest.mark.slow
def test_a_broken_gradient_in_one_process_is_skipped_on_all(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    logs, states = two
    assert logs["skips"] == [1, 0]
    assert [math.isfinite(point["grad_norm"]) for point in logs["poisoned"]] == [True, False, True]
    assert all(torch.isfinite(value).all() for value in states["poisoned"].values())


@pytest.mark.slow
def test_in_bf16_shards_are_fp32_and_train_alike(two: tuple[dict[str, Any], dict[str, State]]) -> None:
    """Norms' weights are bf16 in FSDP's gathered blocks and fp32 in DDP's copies: that much tolerance."""
    logs, states = two
    for strategy in STRATEGIES:
        state, first = states[f"bf16-{strategy}"], logs[f"bf16-{strategy}"][0]
        kinds = {value.dtype for key, value in state.items() if key.startswith(("weights", "optimizer"))}
        assert kinds == {torch.float32}
        assert not same(state, states[f"dpo-{strategy}"]), "bf16 does something"
        assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
        assert first["grad_norm"] == pytest.approx(logs["dpo-ddp"][0]["grad_norm"], rel=0.03)


def test_the_reference_in_bf16_is_the_reference_under_autocast(project: Path) -> None:
    """Bit for bit: autocast makes the same weights bf16 in each forward."""
    from accelerate.state import AcceleratorState

    from diffalign.training.dataset import Sources
    from diffalign.training.learner import load_init

    spec = make_spec(project, "dpo")
    batch = next(Sources(spec, build(spec, make_accelerator("cpu", 1, "fp32"))).source(PairSource).at(0))
    AcceleratorState._reset_state(reset_partial_state=False)
    try:
        accelerator = make_accelerator("cpu", 1, "bf16")
        plain, small = (load_init(spec, torch.device("cpu")) for _ in range(2))
        Replicated(accelerator).frozen(small.denoiser)
        with torch.no_grad(), accelerator.autocast():
            expected, found = (pair_errors(model.denoise, batch) for model in (plain, small))
    finally:
        AcceleratorState._reset_state(reset_partial_state=False)
    assert {p.dtype for p in small.denoiser.parameters()} == {torch.bfloat16, torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradient_checkpointing_changes_nothing(project: Path) -> None:
    """The same loss and the same gradients, hence the same weights, bit for bit."""
    results = []
    for on in (False, True):
        spec = make_spec(project, "dpo", gradient_checkpointing=on)
        learner = build(spec, make_accelerator("cpu", 1, "fp32"))
        assert learner.denoiser.is_gradient_checkpointing == on
        results.append((steps(learner, spec, 0, 2), kept(learner)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])


def test_fsdp_shares_adamw_only(project: Path) -> None:
    spec = make_spec(project, "dpo", optimizer="adafactor")
    with pytest.raises(UserError, match=r"policies\.dpo\.optimizer: expected adamw, since .*fsdp.*got 'adafactor'"):
        build(spec, make_accelerator("cpu", 1, "fp32"), "fsdp")


def test_blocks_are_what_the_network_says() -> None:
    class Block(nn.Sequential):
        pass

    network = nn.Sequential(Block(nn.Linear(1, 1)), nn.Sequential(Block(Block())), nn.Linear(1, 1))
    assert blocks(network) == []
    network._no_split_modules = ["Block"]
    assert blocks(network) == [network[0], network[1][0], network[1][0][0]]


def start(policy: str, **env: str) -> subprocess.Popen[bytes]:
    code = f"from stages import train; from diffalign.config.load import load; train.run(load(), {policy!r})"
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


@pytest.mark.nightly
def test_the_stage_in_fsdp_killed_and_resumed(project: Path) -> None:
    """The real stage: what it publishes says how it ran, loads, and is the same bits with a kill in between."""
    make_params(project, POLICIES, rollouts=JUDGED)
    env = {"DIFFALIGN_PROCESSES": "2", "DIFFALIGN_PARALLEL": "fsdp"}
    results = []
    for kill in (False, True):
        process = start("sft", **env)
        if kill:
            while not list(Path("runs").glob("train-*/checkpoints/step-*")):
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = start("sft", **env)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr.decode()
        assert ("goes on from step" in stderr.decode()) == kill
        results.append(load_file("models/policies/sft/unet/diffusion_pytorch_model.safetensors"))
    assert same(*results)
    meta = json.loads(Path("models/policies/sft/policy.json").read_text())
    assert meta["environment"]["parallel"] == "fsdp"
    config = json.loads(Path("models/policies/sft/unet/config.json").read_text())
    assert config["_class_name"] == "UNet2DConditionModel"


@pytest.mark.nightly
def test_the_stage_in_fsdp_in_bf16_publishes_the_probes_choice(project: Path) -> None:
    """Two processes that share weights in bf16 probe, make pictures, keep the best step's weights and publish those."""
    watched = {"every": 2, "pairs": 4, "draws": 3, "images": 3, "image_steps": 2, "rewards": []}
    policies = POLICIES | {"dpo": POLICIES["dpo"] | {"choose": "probe", "steps": 4}}
    values = make_params(project, policies, probe=watched, rollouts=JUDGED)
    env = {"DIFFALIGN_PROCESSES": "2", "DIFFALIGN_PARALLEL": "fsdp", "DIFFALIGN_PRECISION": "bf16"}
    process = start("dpo", **env)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    meta = json.loads(Path("models/policies/dpo/policy.json").read_text())
    assert (meta["environment"]["parallel"], meta["environment"]["precision"]) == ("fsdp", "bf16")
    probed = points([json.loads(line) for line in Path("curves/dpo.jsonl").read_text().splitlines()])
    assert [point["step"] for point in probed] == [2, 4]
    assert meta["chosen"]["step"] == best(probed, values.probe.model_dump())[0]
    assert all(math.isfinite(point["winner_change"]) for point in probed)
    assert len(list(Path("models/policies/dpo/probe").glob("step-*.png"))) == 2
    load_file("models/policies/dpo/unet/diffusion_pytorch_model.safetensors")


def test_the_environment_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIFFALIGN_PARALLEL", "DIFFALIGN_COMPILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")
    assert (environment.parallel(), environment.compile_choice()) == ("ddp", False)
    monkeypatch.setenv("DIFFALIGN_PARALLEL", "fsdp")
    monkeypatch.setenv("DIFFALIGN_COMPILE", "1")
    assert (environment.parallel(), environment.compile_choice()) == ("fsdp", True)
    monkeypatch.setenv("DIFFALIGN_PARALLEL", "zero")
    with pytest.raises(UserError, match="expected ddp or fsdp, got 'zero'"):
        environment.parallel()
    monkeypatch.setenv("DIFFALIGN_COMPILE", "perhaps")
    with pytest.raises(UserError, match=r"expected one of 1, on, true, yes or .* got 'perhaps'"):
        environment.compile_choice()
