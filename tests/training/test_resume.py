"""A run that is killed again and again ends with the weights and the optimizer of one that wasn't, to the bit."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.params import Params
from diffalign.core.files import hash_folder, sha256_file
from stages import ingest, precompute
from tests.helpers import forked
from tests.helpers.project import make_inputs, make_params

pytestmark = pytest.mark.slow
STEPS, EVERY, KILLS = 121, 3, 20
TRAINED = {"steps": STEPS, "batch_size": 4, "micro_batch_size": 2, "lr": 1e-4}
POLICIES = {"base": {"method": "none"}, "dpo": {"method": "dpo", "beta": 2000, **TRAINED}}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, in which the workers of this file train."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    made = make_params(folder, POLICIES, runtime={"checkpoint_every": EVERY})
    ingest.run(made)
    precompute.run(made)
    yield made
    os.chdir(before)


def results(work: Path) -> dict[str, str]:
    """SHA-256 of what a run leaves: the last checkpoint (weights, moments, skips), the policy, the curve."""
    last = max((work / "checkpoints").glob("step-*"))
    assert last.name == f"step-{STEPS - 1:08d}"
    return {
        "weights and optimizer": sha256_file(last / "state.safetensors"),
        "checkpoint": sha256_file(last / "checkpoint.json"),
        "policy": hash_folder(work / "out"),
        "curve": sha256_file(work / "curve.jsonl"),
    }


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, id="1 process"), pytest.param(2, id="2 processes", marks=pytest.mark.nightly)],
)
def uninterrupted(values: Params, request: pytest.FixtureRequest) -> tuple[int, Path]:
    """The number of processes and the work folder of a run that nothing disturbed."""
    return request.param, whole(values, request.param)


def whole(values: Params, processes: int) -> Path:
    work = Path(f"runs/whole-{processes}")
    if not work.exists():
        forked.prepare(work, values, "dpo", processes)
        assert forked.finish(forked.start(work, processes)) == [0] * processes
    return work


def lines(work: Path) -> int:
    """How many steps the curve has."""
    curve = work / "curve.jsonl"
    return curve.read_bytes().count(b"\n") if curve.exists() else 0


def half_saved(work: Path, since: float) -> bool:
    """Whether a checkpoint is being written, or was when its writer died, by an attempt that began at `since`."""
    return any(os.stat(path).st_mtime > since for path in (work / "checkpoints").glob(".step-*.tmp"))


def wait_for_a_moment(work: Path, how: str, since: float, draw: random.Random) -> None:
    """Returns in the middle of a save, or some steps on, or after a while of start, resume and steps."""
    end = time.monotonic() + 60
    steps, seconds = lines(work) + draw.randint(2, 4), draw.uniform(0, 2)
    while time.monotonic() < end:
        try:
            if how == "saving" and half_saved(work, since):
                return
        except FileNotFoundError:  # renamed meanwhile: too late for this one
            continue
        if how != "saving" and lines(work) >= steps:
            break
        if how == "start" and time.time() > since + seconds:
            break
        time.sleep(0.0002)
    else:
        raise AssertionError(f"no moment of {how} came")
    time.sleep(draw.uniform(0, 0.05))


def test_killed_twenty_times_it_ends_the_same(values: Params, uninterrupted: tuple[int, Path]) -> None:
    processes, undisturbed = uninterrupted
    work = Path(f"runs/killed-{processes}")
    forked.prepare(work, values, "dpo", processes)
    draw = random.Random(processes)
    saving = 0
    for number in range(KILLS):
        since = time.time()
        started = forked.start(work, processes)
        wait_for_a_moment(work, ("saving", "steps", "start", "steps")[number % 4], since, draw)
        draw.shuffle(started)
        for worker in started:
            assert worker.exitcode is None, "the kill landed in a running worker"
            worker.kill()
        assert forked.finish(started) == [-9] * processes
        saving += half_saved(work, since)
    assert saving >= 3, "some kills were in the middle of a save"
    assert forked.finish(forked.start(work, processes)) == [0] * processes
    assert results(work) == results(undisturbed)


def test_two_processes_go_on_as_one(values: Params) -> None:
    """The same global batches, summed in another order: the weights agree within the tolerance of 1 = 2 processes."""
    work = Path("runs/fewer")
    forked.prepare(work, values, "dpo", 2)
    started = forked.start(work, 2)
    while lines(work) < STEPS // 2:
        assert started[0].exitcode is None
        time.sleep(0.005)
    for worker in started:
        worker.kill()
    forked.finish(started)
    forked.prepare(work, values, "dpo", 1)
    assert forked.finish(forked.start(work, 1)) == [0]
    meta = json.loads((work / "out/policy.json").read_text())
    assert [e["processes"] for e in meta["environments"]] == [2, 1]
    assert meta["environments"][0]["from_step"] == 0
    assert 0 < meta["environments"][1]["from_step"] < STEPS
    name = "out/unet/diffusion_pytorch_model.safetensors"
    there, expected = load_file(work / name), load_file(whole(values, 1) / name)
    base = load_file("model/unet/diffusion_pytorch_model.safetensors")
    for key in expected:
        torch.testing.assert_close(there[key], expected[key], rtol=1e-3, atol=2e-4)
    assert max((expected[key] - base[key]).abs().max().item() for key in base) > 1e-3, "training moved the weights"
