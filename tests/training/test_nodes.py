"""Training in the processes of an external launcher: two nodes of one process each train what one machine does."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.core.errors import UserError
from stages import ingest, precompute, reference
from tests.helpers.project import REPO, make_inputs, make_params

POLICIES = {
    "base": {"method": "none"},
    "sft": {"method": "sft", "steps": 4},
    "dpo": {"method": "dpo", "beta": 2000, "steps": 4},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with shards, on a file system that both nodes have."""
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    values = make_params(folder, POLICIES)
    ingest.run(values)
    precompute.run(values)
    yield folder
    os.chdir(before)


def start(policy: str, **variables: str) -> "subprocess.Popen[str]":
    """The train stage in a process with these variables."""
    code = f"from stages import train; from diffalign.config.load import load; train.run(load(), {policy!r})"
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)


def nodes(*policies: str) -> "list[subprocess.Popen[str]]":
    """The train stage on two nodes: the first started as torchrun does it, the second as srun does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meet = {
        "DIFFALIGN_LAUNCHER": "external",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    srun = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}
    return [start(policy, **meet, **own) for policy, own in zip(policies, (torchrun, srun), strict=True)]


def results() -> tuple[dict[str, torch.Tensor], str]:
    (file,) = Path("models/policies/sft").rglob("*.safetensors")
    return load_file(file), Path("curves/sft.jsonl").read_text()


def test_two_nodes_train_what_two_processes_of_one_machine_do(project: Path) -> None:
    """Bit for bit, weights and curve; the first one's stage publishes, and nothing is left of either's work."""
    alone = start("sft", DIFFALIGN_PROCESSES="2")
    text = alone.communicate(timeout=240)[1]
    assert alone.returncode == 0, text
    weights, curve = results()
    Path("curves/sft.jsonl").unlink()
    both = nodes("sft", "sft")
    said = [node.communicate(timeout=240)[1] for node in both]
    assert [node.returncode for node in both] == [0, 0], said
    found, curve_again = results()
    assert curve_again == curve
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert "train sft: models/policies/sft" in said[0] and "models/policies/sft" not in said[1]
    assert not list(Path("runs").glob("train-*"))


def test_nodes_that_were_given_different_runs_end_with_a_message(project: Path) -> None:
    both = nodes("sft", "dpo")
    said = [node.communicate(timeout=240)[1] for node in both]
    assert all(node.returncode for node in both)
    assert all("expected the same run in each of 2 processes, 1 of them found another" in text for text in said)
    assert "which the first process wrote" in said[1]


def test_measuring_the_reference_is_one_nodes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_LAUNCHER", "external")
    with pytest.raises(UserError, match="only training joins a launcher's processes"):
        reference.run(make_params(project, POLICIES, reference={"draws": 1}))
