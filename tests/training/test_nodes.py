"""Training in the processes of an external launcher: two nodes of one process each train what one machine does.

One test starts the nodes as a launcher does, with workers of their own, which takes a while. The others fork them.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffalign.config.load import load
from diffalign.core.errors import UserError
from diffalign.runtime import external, launch
from diffalign.training import loop as training
from diffalign.training.spec import read as read_spec
from stages import reference, train
from tests.helpers import forked
from tests.helpers.project import REPO, make_params

POLICIES = {
    "base": {"method": "none"},
    "sft": {"method": "sft", "steps": 4},
    "dpo": {"method": "dpo", "beta": 2000, "steps": 4},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with shards, on a file system that both nodes have."""
    folder = tmp_path_factory.mktemp("project")
    for _ in forked.project(folder, POLICIES):
        yield folder


def start(policy: str, variables: dict[str, str]) -> "subprocess.Popen[str]":
    """The train stage in a process with these variables."""
    code = f"from stages import train; from diffalign.config.load import load; train.run(load(), {policy!r})"
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)


def two_nodes() -> list[dict[str, str]]:
    """Two nodes' variables: the first one's as torchrun sets them, the second one's as srun does."""
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
    return [meet | torchrun, meet | srun]


def node(policy: str, variables: dict[str, str], stderr: str) -> None:
    """The train stage on a node, in a forked process that is the stage's worker too."""
    with open(stderr, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(variables)
    place = external.place()
    assert place

    def in_place(module: str, arguments: list[str], *rest: object) -> None:
        os.environ.update(launch.environment(os.environ, 1) | place.variables())
        spec, *work = map(Path, arguments)
        training.run(read_spec(spec), *(work or [spec.parent]))

    train.start.launch = in_place  # type: ignore[assignment]
    train.run(load(), policy)


@pytest.mark.slow
def test_two_nodes_train_what_two_processes_of_one_machine_do(project: Path) -> None:
    """Bit for bit, weights and curve; the first one's stage publishes, and nothing is left of either's work."""
    alone = Path("alone")
    forked.prepare(alone, load(), "sft", 2)
    assert forked.finish(forked.start(alone, 2)) == [0, 0]
    both = [start("sft", variables) for variables in two_nodes()]
    said = [each.communicate(timeout=240)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert Path("curves/sft.jsonl").read_text() == (alone / "curve.jsonl").read_text()
    weights, found = (
        load_file(next(folder.rglob("*.safetensors"))) for folder in (alone / "out", Path("models/policies/sft"))
    )
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
    assert "train sft: models/policies/sft" in said[0] and "models/policies/sft" not in said[1]
    assert not list(Path("runs").glob("train-*"))


def test_nodes_that_were_given_different_runs_end_with_a_message(project: Path) -> None:
    started = [
        forked.CONTEXT.Process(target=node, args=(policy, variables, f"{policy}.txt"))
        for policy, variables in zip(("sft", "dpo"), two_nodes(), strict=True)
    ]
    for process in started:
        process.start()
    assert forked.finish(started) == [1, 1]
    said = [Path(f"{policy}.txt").read_text() for policy in ("sft", "dpo")]
    assert all("expected the same run in each of 2 processes, 1 of them found another" in text for text in said)
    assert "which the first process wrote" in said[1]


def test_measuring_the_reference_is_one_nodes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_LAUNCHER", "external")
    with pytest.raises(UserError, match="only training joins a launcher's processes"):
        reference.run(make_params(project, POLICIES, reference={"draws": 1}))
