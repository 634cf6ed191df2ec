"""What holds for all tests: few threads, no network, and nothing left in the repository."""

import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffalign.core import collector

ROOT = Path(__file__).resolve().parents[1]
SCRATCH = Path(tempfile.mkdtemp(prefix="diffalign-tests-"))

# In a job that a script started with `&` SIGINT is ignored, and children inherit that: what is to be stopped wouldn't.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What a developer has set for their own runs: tests neither obey it nor touch their server.
for name in [n for n in os.environ if n.startswith(("DIFFALIGN_", "PREFECT_API_"))]:
    del os.environ[name]

# Set before torch, Prefect or MLflow are imported, which read them once; subprocesses inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread is fastest for the small models of the tests
os.environ.update(
    OMP_WAIT_POLICY="PASSIVE",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    HF_HUB_OFFLINE="1",
    HF_HOME=str(SCRATCH / "huggingface"),
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_TRACKING_URI=f"sqlite:///{SCRATCH}/mlflow.db",
    PREFECT_HOME=str(SCRATCH / "prefect"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
)

LOOPBACK = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname()}


def _no_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: connections and look-ups beyond this machine are refused, in this process."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOOPBACK and not str(name).startswith("127."):
        raise PermissionError(f"tests don't use the network, but one asks for {name}")


sys.addaudithook(_no_network)
collector.rare_while_loading()


LONGEST = (
    "dvc",
    "align",
    "loop",
    "resume",
    "monitor",
    "study",
    "deployments",
    "parallel",
    "plan",
    "benchmark_train",
    "sync",
)
"""Test files by the time they take, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest files: where several run at a time, none of them is what is waited for at the end."""
    first = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


def pytest_unconfigure() -> None:
    """Removes the scratch folder of the services."""
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Puts the signals' handlers back, which training in this process leaves: usually its process ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT
