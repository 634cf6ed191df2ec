"""Training through the real stages, in processes of its own: resume, processes, adapters, what comes out."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from diffalign.config.methods import ddpo
from diffalign.config.rollout import Rollout
from diffalign.core.errors import Outage, UserError
from diffalign.data.batches.pair_batches import PairSource
from diffalign.models import family as families
from diffalign.models.policies import load_policy
from diffalign.runtime import launch as launching
from diffalign.training import loop, publishing
from diffalign.training.dataset import Sources
from diffalign.training.learner import build
from diffalign.training.loop import SAID_AGAIN, say_missing
from stages import train
from tests.helpers import forked, specs
from tests.helpers.project import REPO, make_params

POLICIES = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000},
    "lora": {"method": "dpo", "beta": 2000, "lora": {"rank": 4, "alpha": 8, "targets": None}},
    "sft": {"method": "sft"},
    "mapo": {"method": "mapo", "beta": 0.1},
    "kto": {"method": "kto", "beta": 2000},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with shards; the tests of this file train in it."""
    folder = tmp_path_factory.mktemp("project")
    for _ in forked.project(folder, POLICIES):
        yield folder


def start(policy: str, processes: int = 1) -> subprocess.Popen[bytes]:
    """The train stage in a process group of its own, as a user's shell would start it."""
    code = f"from stages import train; from diffalign.config.load import load; train.run(load(), {policy!r})"
    environment = {**os.environ, "DIFFALIGN_PROCESSES": str(processes), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, start_new_session=True, stderr=subprocess.PIPE
    )


def finish(policy: str, processes: int = 1) -> str:
    process = start(policy, processes)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()
    return stderr.decode()


def ensure(policy: str) -> None:
    """Trains a policy unless a test before did."""
    if not Path("models/policies", policy, "policy.json").exists():
        finish(policy)


def weights(policy: str) -> dict[str, torch.Tensor]:
    (file,) = Path("models/policies", policy).rglob("*.safetensors")
    return load_file(file)


def curve(policy: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(f"curves/{policy}.jsonl").read_text().splitlines()]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def kill_after_a_checkpoint(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the stage alone: its workers must go with it."""
    deadline = time.monotonic() + 300
    while not list(Path("runs").glob("train-*/checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


BETA = (
    "beta 2000 is 3.906 for errors summed over a latent, 1000 as --beta_dpo of diffusers' SD 1.5 script, 2000 as that "
    "of its SDXL script; lr 0.001 here; the paper's rule for this beta: 2.048e-08 in print, 2.048e-05 as launched\n"
)
"""Of 4 x 8 x 8 latents: 1000 / 256."""


@pytest.mark.parametrize("policy", ["dpo", pytest.param("lora", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(project: Path, policy: str) -> None:
    assert f"train {policy}: {BETA}" in finish(policy)
    whole, points = weights(policy), curve(policy)
    assert [point["step"] for point in points] == list(range(1, 9))
    assert points[0]["loss"] == pytest.approx(0.693147, rel=1e-5)
    assert not list(Path("runs").glob("train-*")), "the work folder is removed after publishing"

    kill_after_a_checkpoint(start(policy))
    wait_for_no_worker()
    log = finish(policy)
    assert "goes on from step" in log
    there = json.loads(Path(f"models/policies/{policy}/policy.json").read_text())["conventions"]
    assert (there["diffusers_sd15"], there["diffusers_sdxl"]) == (1000, 2000)
    assert same(weights(policy), whole)
    assert curve(policy) == points


def wait_for_no_worker() -> None:
    for _ in range(600):
        if not (running := workers()):
            return
        time.sleep(0.1)
    raise AssertionError(f"workers outlived the stage: {running}")


def workers() -> list[int]:
    """Training processes at work in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "diffalign.training.loop" in process.cmdline() and Path(process.cwd()) == Path.cwd():
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("policy", "conventions"),
    [
        ("sft", {}),
        pytest.param("kto", {"beta": 2000, "summed": 1000 / 256, "diffusion_kto": 1000}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_does(project: Path, policy: str, conventions: dict[str, float]) -> None:
    """The same global batches; sums are in another order, so the weights agree within a tolerance, not bitwise."""
    finish(policy)
    one, points = weights(policy), curve(policy)
    finish(policy, processes=2)
    two = weights(policy)
    meta = json.loads(Path(f"models/policies/{policy}/policy.json").read_text())
    assert meta["environment"]["processes"] == 2
    assert meta["conventions"] == conventions
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-4)
    for a, b in zip(curve(policy), points, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    base = load_file("model/unet/diffusion_pytorch_model.safetensors")
    assert max((one[name] - base[name]).abs().max().item() for name in one) > 1e-3, "training moved the weights"


def test_lora_loads_in_stock_diffusers_and_is_what_our_loader_gives(project: Path) -> None:
    ensure("lora")
    folder = Path("models/policies/lora")
    pipeline = StableDiffusionPipeline.from_pretrained("model")
    pipeline.set_progress_bar_config(disable=True)
    inputs = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    cond = families.load("sd15", "model", ("text",)).encode_prompt(["a cat"])
    with torch.no_grad():
        before = pipeline.unet(*inputs, encoder_hidden_states=cond["hidden"]).sample
        pipeline.load_lora_weights(folder)
        stock = pipeline.unet(*inputs, encoder_hidden_states=cond["hidden"]).sample
        ours = load_policy("sd15", "model", folder, parts=()).denoise(*inputs, cond)
        model = load_policy("sd15", "model", folder, parts=())
    torch.testing.assert_close(ours, stock)
    scalings = [value for m in model.denoiser.modules() for value in getattr(m, "scaling", {}).values()]
    assert scalings and set(scalings) == {2.0}, "alpha / rank"
    assert (stock - before).abs().max() > 1e-5, "the adapter does something"
    assert pipeline("a cat", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)


def test_full_weights_load_in_stock_diffusers(project: Path) -> None:
    ensure("dpo")
    unet = UNet2DConditionModel.from_pretrained("models/policies/dpo/unet")
    pipeline = StableDiffusionPipeline.from_pretrained("model", unet=unet)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a cat", num_inference_steps=2, height=64, width=64).images[0].size == (64, 64)


def test_mapo_trains_where_its_timesteps_say(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole stage with another method; the training source draws from the policy's share of the schedule."""
    values = make_params(project, POLICIES | {"mapo": POLICIES["mapo"] | {"timesteps": [0.7, 0.9]}})
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    train.run(values, "mapo")
    assert [point["step"] for point in curve("mapo")] == list(range(1, 9))
    assert json.loads(Path("models/policies/mapo/policy.json").read_text())["timesteps"] == [0.7, 0.9]

    spec = specs.spec(values, "mapo")
    times = Sources(spec, build(spec, Accelerator(cpu=True))).source(PairSource).times
    assert (times.low, times.high, times.density, times.strata) == (0.7, 0.9, "uniform", 0)


def test_an_untrained_policy_is_its_init(project: Path) -> None:
    from diffalign.config.load import load

    train.run(load(), "base")
    assert Path("curves/base.jsonl").read_text() == '{"step": 0}\n'
    model = load_policy("sd15", "model", Path("models/policies/base"), parts=())
    base = families.load("sd15", "model", ("denoiser",))
    assert same(model.denoiser.state_dict(), base.denoiser.state_dict())


def test_a_broken_gradient_in_one_rank_is_skipped_on_all(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 2, 4 and 6 are poisoned in one rank: the others go on as if they hadn't been, and skips are counted."""
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "2")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("DIFFALIGN_TEST_POISON", "2 1 nan, 4 0 inf, 6 1 1e12")
    monkeypatch.setattr(
        "diffalign.training.start.launch", lambda module, *rest: launching.launch("tests.helpers.poison", *rest)
    )
    values = make_params(project, POLICIES)
    train.run(values, "sft")
    points = curve("sft")
    sound = [(p["step"], p["skipped"]) for p in points if p["step"] not in (2, 4, 6)]
    assert sound == [(1, 0), (3, 1), (5, 2), (7, 3), (8, 3)]
    assert all(torch.isfinite(value).all() for value in weights("sft").values())


def test_divergence_is_a_users_error(project: Path) -> None:
    values = make_params(project, POLICIES | {"wild": {"method": "sft", "lr": 1e30, "warmup_steps": 0}})
    with pytest.raises(UserError, match=r"training of wild diverged: .*Lower policies\.wild\.lr"):
        train.run(values, "wild")


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_not_published(value: float) -> None:
    sound = {"a": torch.ones(3), "b": torch.zeros(2)}
    publishing.check_finite("dpo", sound)
    with pytest.raises(UserError, match=r"training of dpo: .* in 1 of 2 tensors, b for one: nothing is published"):
        publishing.check_finite("dpo", sound | {"b": torch.tensor([0.0, value])})


def test_an_unknown_policy(project: Path) -> None:
    with pytest.raises(UserError, match="expected one of the policies"):
        train.run(make_params(project, POLICIES), "nobody")


def test_missing_rewards_are_said_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    """A quarter of 2 x 8 pictures; a step without a missing one, or soon after, says nothing."""
    policy = ddpo.Settings.model_construct(
        batch_size=8, rollout=Rollout.model_construct(updates=2), reward={"vlm": {}, "oracle": {}}
    )
    learner = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True))
    job: Any = SimpleNamespace(spec=SimpleNamespace(name="p", policy=policy), learner=learner, missing_said=None)
    for step, share in [(1, 0.0), (2, 0.25), (3, 0.25), (2 + SAID_AGAIN, 0.5)]:
        say_missing(job, step, {"dropped": share})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: train p: step 2: 4 of 16 pictures of the rollout have no reward (vlm, oracle)")
    assert second.startswith(f"warning: train p: step {2 + SAID_AGAIN}: 8 of 16 ")


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (Outage, 75)])
def test_a_worker_tells_a_users_error_from_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[UserError], code: int
) -> None:
    def fails(spec: object, work: Path) -> None:
        raise error("its message")

    for name in ("die_with_parent", "read_spec"):
        monkeypatch.setattr(loop, name, lambda *_: None)
    monkeypatch.setattr(loop.collector, "rare_while_loading", lambda: None)
    monkeypatch.setattr(loop, "run", fails)
    monkeypatch.setattr(sys, "argv", ["loop", str(tmp_path / "spec.json")])
    with pytest.raises(SystemExit) as ended:
        loop.main()
    assert (ended.value.code, (tmp_path / "error.txt").read_text()) == (code, "its message")
