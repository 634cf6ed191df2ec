"""How workers are launched: what they inherit, where they meet, and what is made of the way they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from diffalign.core.code import ROOT
from diffalign.core.errors import Outage, Stopped, UserError
from diffalign.core.files import lock
from diffalign.runtime import launch as launching
from tests.helpers.launchers import LEFTOVERS

OBEYS = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(0.3), sys.exit(75))); "
CASES = {
    "obeys": OBEYS + "print('up', flush=True, file=open(sys.argv[1], 'a')); time.sleep(600)",
    "ended": "import os, signal, time; os.environ['RANK'] == '0' and time.sleep(600); os.kill(os.getpid(), 15)",
    "saved": "import sys; sys.exit(75)",
    "fails": "import os, sys, time; os.environ['RANK'] == '0' and time.sleep(600); sys.exit(3)",
    "users": "import os, sys, time; os.environ['RANK'] == '0' and time.sleep(600); sys.exit(2)",
    "tells": "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('beta is wrong'); sys.exit(2)",
    "asks": "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('no answer'); sys.exit(75)",
    "works": "import os; assert os.environ['WORLD_SIZE'] == '2' and int(os.environ['MASTER_PORT'])",
}


def launch(folder: Path, name: str) -> None:
    """Two workers of a module that is one of the cases."""
    (folder / f"{name}.py").write_text(CASES[name])
    with lock(folder) as held:
        launching.launch(name, [str(folder / "file")], 2, folder / ("up" if name == "obeys" else "file"), held)


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("ended", Stopped, "before it could save"),
        ("saved", Stopped, "what was done is saved"),
        ("fails", RuntimeError, r"exit codes \[-9, 3\]"),
        ("users", UserError, "its message is above"),
        ("tells", UserError, "beta is wrong"),
        ("asks", Outage, "no answer"),
    ],
)
def test_how_workers_end_says_what_a_launch_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], text: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(error, match=text):
        launch(tmp_path, name)


def test_a_launch_passes_a_request_on_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launch(tmp_path, "works")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "as it was, when nobody asked"

    def ask() -> None:
        while not (tmp_path / "file").exists() or (tmp_path / "file").read_text() != "up\nup\n":
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(Stopped):
        launch(tmp_path, "obeys")
    thread.join()
    os.kill(os.getpid(), signal.SIGTERM)  # one that comes while the process is about to end


TELLS = "import json, os, sys; open(sys.argv[1], 'a').write(json.dumps(dict(os.environ)) + chr(10))"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_workers_environment_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """Nothing that a launcher left reaches a worker; its rank, its threads and where the code is are ours."""
    for name, value in LEFTOVERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tells.py").write_text(TELLS)
    with lock(tmp_path) as held:
        launching.launch("tells", [str(tmp_path / "file")], processes, tmp_path / "error", held)
    seen = [json.loads(line) for line in (tmp_path / "file").read_text().splitlines()]
    assert len(seen) == processes
    assert all(found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path)] for found in seen)
    assert all((found["OMP_NUM_THREADS"], found["PATH"]) == ("1", os.environ["PATH"]) for found in seen)
    if processes == 1:
        assert not LEFTOVERS.keys() & seen[0].keys()
    else:
        ours = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
        ours |= {"TORCHELASTIC_USE_AGENT_STORE"}
        assert all(LEFTOVERS.keys() & found.keys() == ours for found in seen)
        assert {found["MASTER_ADDR"] for found in seen} == {"127.0.0.1"}
        assert sorted(found["RANK"] for found in seen) == ["0", "1"]


MEET = """
import os, sys
from datetime import timedelta
import psutil, torch
import torch.distributed as dist
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
total = torch.tensor([float(os.environ["RANK"]) + 1])
dist.all_reduce(total)
ports = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
with open(sys.argv[1], "a") as file: file.write(f"{total.item():g} {sorted(set(ports))}" + chr(10))
dist.destroy_process_group()  # a group's threads at the interpreter's end abort it now and then
"""


def test_processes_of_one_machine_meet_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the store in the launching process nor the ranks, which connect to each other, listen elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "meet.py").write_text(MEET)
    with lock(tmp_path) as held:
        launching.launch("meet", [str(tmp_path / "file")], 2, tmp_path / "error", held)
    lines = (tmp_path / "file").read_text().splitlines()
    assert lines == ["3 ['127.0.0.1']"] * 2
    store = launching.meeting_point()
    listening = [c.laddr for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
    assert [address.ip for address in listening if address.port == store.port] == ["127.0.0.1"]


def test_an_external_launchers_processes_are_joined_where_a_switch_asks(tmp_path: Path) -> None:
    """Two `nodes` of one process each, as srun would start them: both launch the one worker of their own rank."""
    (tmp_path / "meet.py").write_text(MEET)
    code = (
        "import sys; from pathlib import Path; from diffalign.core.files import lock\n"
        "from diffalign.runtime import environment, launch\n"
        "work = Path(sys.argv[1]); work.mkdir(); assert environment.world_size() == 2\n"
        "with lock(work) as held: launch.launch('meet', [sys.argv[2]], 2, work / 'error', held)\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"DIFFALIGN_LAUNCHER": "external", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_LOCALID": "0", "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / f"node{rank}"), str(tmp_path / "file")],
            env={**os.environ, **common, "SLURM_PROCID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert [line.split()[0] for line in (tmp_path / "file").read_text().splitlines()] == ["3", "3"]
