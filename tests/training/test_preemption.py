"""SIGTERM and Ctrl-C in mid-training, through the command line; a full disk at a save."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator

from diffalign.core import yaml_file
from diffalign.runtime.signals import noted
from diffalign.training import curve_file
from tests.helpers.checkout import make_trainable
from tests.helpers.pids import gone

STEPS, SHORT = 3000, 24
CHECKPOINT_EVERY = {"long": 1000, "short": 1}
POLICIES = {
    "base": {"method": "none"},
    "long": {"method": "sft", "steps": STEPS, "lr": 1e-5},
    "short": {"method": "sft", "steps": SHORT},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project with small inputs and shards, to run the command line in."""
    folder = tmp_path_factory.mktemp("preemption") / "project"
    return make_trainable(folder, POLICIES)


def start(folder: Path, policy: str, processes: int = 1) -> "subprocess.Popen[str]":
    """`python pipeline.py stage train@POLICY` in a group of its own, as a shell would start it."""
    params = yaml_file.read(folder / "params.yaml")
    params["runtime"]["checkpoint_every"] = CHECKPOINT_EVERY.get(policy, 2)
    (folder / "params.yaml").write_text(yaml_file.dump(params))
    settings = {"DIFFALIGN_PROCESSES": str(processes), "DIFFALIGN_TRACKING": "0", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [sys.executable, "pipeline.py", "stage", f"train@{policy}"],
        cwd=folder,
        env={**os.environ, **settings},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(folder: Path, process: "subprocess.Popen[str]", policy: str, more: int = 2) -> Path:
    """The work folder, once the run has made some steps."""
    end = time.monotonic() + 240
    while True:
        for curve in (folder / "runs").glob(f"train-{policy}-*/curve.jsonl"):
            if curve.read_bytes().count(b"\n") >= more:
                return curve.parent
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def saved(work: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (work / "checkpoints").glob("step-*"))


def steps(work: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (work / "curve.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_75_and_another_world_goes_on(project: Path) -> None:
    """Two processes are stopped, first by a SIGTERM to the stage, then to one worker; then one process goes on."""
    process = start(project, "long", 2)
    work = wait_for_steps(project, process, "long")
    running = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    made, asked = steps(work)[-1], time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert time.monotonic() - asked < 15
    (first,) = saved(work)
    assert made <= first <= made + 5, "it didn't train on"
    assert f"train long: asked to stop; saved at step {first} of {STEPS}" in said
    assert "stopped: ended on request" in said and "Traceback" not in said
    assert all(gone(pid) for pid in running)
    assert not (project / "models/policies/long").exists()

    process = start(project, "long", 2)
    wait_for_steps(project, process, "long", first + 2)
    (_, second) = psutil.Process(process.pid).children()
    second.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert f"goes on from step {first}" in said and "another environment" not in said
    again = saved(work)[-1]
    assert again > first

    process = start(project, "long", 1)
    wait_for_steps(project, process, "long", again + 2)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C is
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert f"goes on from step {again}" in said
    assert f"from step {again} on another environment (processes 2 -> 1" in said
    assert "isn't promised bit for bit" in said
    assert steps(work) == list(range(1, saved(work)[-1] + 1)), "the curve is whole"
    meta = json.loads((work / "checkpoints" / f"step-{saved(work)[-1]:08d}" / "checkpoint.json").read_text())["content"]
    assert [(e["from_step"], e["processes"]) for e in meta["environments"]] == [(0, 2), (again, 1)]


@pytest.mark.slow
def test_a_full_disk_at_a_save_is_told_and_the_next_run_goes_on(project: Path) -> None:
    """From some moment on a limit on the size of files refuses what the first of two workers writes, in its midst."""
    process = start(project, "short", 2)
    work = wait_for_steps(project, process, "short", 3)
    (first, _) = psutil.Process(process.pid).children()
    before, size = saved(work), (max((work / "checkpoints").glob("step-*")) / "state.safetensors").stat().st_size
    resource.prlimit(first.pid, resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2, said
    kept = saved(work)
    assert before[-1] <= kept[-1] < steps(work)[-1] < SHORT
    (*_, last) = said.splitlines()
    assert last.startswith(f"error: Writing {(work / 'checkpoints').relative_to(project)}/step-{kept[-1] + 1:08d}: ")
    assert "Raise the limit" in last
    assert not list((work / "checkpoints").glob(".*")), "nothing half written takes room"
    process = start(project, "short", 2)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert f"goes on from step {kept[-1]}" in said and "broken" not in said
    assert (project / "models/policies/short/policy.json").exists()


def test_a_request_is_agreed_on_with_the_norm() -> None:
    accelerator = Accelerator(cpu=True)
    with noted() as request:
        assert request.agree(accelerator, torch.tensor(0.1)) == torch.tensor(0.1).item()
        assert not request.agreed
        os.kill(os.getpid(), signal.SIGINT)
        assert math.isnan(request.agree(accelerator, torch.tensor(float("nan"))))
        assert request.agreed


def test_a_curve_is_cut_to_a_step(tmp_path: Path) -> None:
    """Lines of later steps go, half a line, and what a crash of the machine may leave behind the last safe one."""
    curve = tmp_path / "curve.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    for tail in ("", '{"step": 4}\n', '{"st', "\0" * 9, "\0\n"):
        curve.write_text("".join(lines) + tail)
        curve_file.cut(curve, 2)
        assert curve.read_text() == "".join(lines[:2])
    curve_file.cut(tmp_path / "none.jsonl", 0)
    assert (tmp_path / "none.jsonl").read_text() == ""
