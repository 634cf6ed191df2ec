"""SIGTERM and Ctrl-C to a training while it compiles, through the command line, on a CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from diffalign.core.files import hash_folder
from tests.helpers.checkout import make_trainable
from tests.helpers.pids import gone

POLICIES = {
    "base": {"method": "none"},
    "sft": {"method": "sft", "steps": 3, "batch_size": 2, "micro_batch_size": 2},
}
SECONDS = 15
"""From a signal to the end of all processes, on a busy machine: 2 of grace, and Python's way out."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with small inputs and shards, and an empty cache of Inductor's."""
    folder = tmp_path_factory.mktemp("compile-stop") / "project"
    return make_trainable(folder, POLICIES, rows=12, runtime={"checkpoint_every": 1})


def start(folder: Path, processes: int = 1) -> "subprocess.Popen[str]":
    """The training, compiled, in a group of its own, as a shell would start it."""
    settings = {
        "DIFFALIGN_PROCESSES": str(processes),
        "DIFFALIGN_TRACKING": "0",
        "DIFFALIGN_COMPILE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        "PYTHONPATH": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "pipeline.py", "stage", "train@sft"],
        cwd=folder,
        env={**os.environ, **settings},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_the_compiler(process: "subprocess.Popen[str]") -> list[int]:
    """All processes below this one, once a C++ compiler is among them."""
    end = time.monotonic() + 240
    while True:
        below = psutil.Process(process.pid).children(recursive=True)
        for child in below:
            with suppress(psutil.NoSuchProcess):
                if child.name() == "cc1plus":
                    return [each.pid for each in below]
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_group", "processes"),
    [(signal.SIGTERM, True, 1), (signal.SIGINT, True, 2), (signal.SIGTERM, False, 2)],
)
def test_a_stop_while_it_compiles_ends_all_processes_soon(
    project: Path, number: int, to_group: bool, processes: int
) -> None:
    """With 75, no traceback, and nothing left running; the compiler doesn't die of the group's signal."""
    process = start(project, processes)
    below = wait_for_the_compiler(process)
    asked = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, number)
    said = process.communicate(timeout=240)[1]
    took = time.monotonic() - asked
    assert process.returncode == 75, said
    assert took < SECONDS, said
    assert "train sft: asked to stop while compiling" in said and "Traceback" not in said
    assert all(gone(pid) for pid in below)
    assert not (project / "models/policies/sft").exists()


@pytest.mark.nightly
def test_a_run_stopped_while_it_compiled_ends_in_the_same_bytes(project: Path) -> None:
    """As one that nobody stopped; on the cache that both have, which is where the environment says."""
    results = []
    for stopped in (True, False):
        if stopped:
            process = start(project)
            wait_for_the_compiler(process)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(60) == 75
            process.communicate()
        process = start(project)
        said = process.communicate(timeout=900)[1]
        assert process.returncode == 0, said
        results.append((hash_folder(project / "models/policies/sft"), (project / "curves/sft.jsonl").read_text()))
        shutil.rmtree(project / "models/policies/sft")
    assert results[0] == results[1]
