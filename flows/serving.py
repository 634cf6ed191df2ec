"""Serves the deployments of prefect.yaml without a worker, and without a server beforehand."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from diffalign.core.errors import UserError
from diffalign.runtime.processes import bound, end_group

STARTUP = 300.0
"""Seconds that a server may take to start."""


def serve_deployments(port: int) -> None:
    """Serves until stopped, with the API that is configured or a server of its own on loopback."""
    with nullcontext() if get_current_settings().api.url else server(port):
        serve(*deployments(Path("prefect.yaml")))


def deployments(path: Path) -> list[RunnerDeployment]:
    """The deployments in a prefect.yaml: name, parameters, cron schedules and concurrency limit of each."""
    return [deployment(entry) for entry in yaml.safe_load(path.read_text())["deployments"]]


def deployment(entry: dict[str, Any]) -> RunnerDeployment:
    """One deployment as prefect.yaml describes it."""
    schedules = [
        Cron(schedule["cron"], timezone=schedule.get("timezone", "UTC"), active=schedule.get("active", True))
        for schedule in entry["schedules"]
    ]
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    made = flow.to_deployment(
        name=entry["name"],
        description=entry.get("description"),
        parameters=entry.get("parameters"),
        schedules=schedules,
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine only where it's called from one
    return made


@contextmanager
def server(port: int) -> Iterator[str]:
    """Runs a Prefect server on loopback, with its UI, and makes it the API of this process; gives its URL."""
    url = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(
                f"Port {port} is in use. If a Prefect server is there: PREFECT_API_URL={url} python pipeline.py serve. "
                "Else choose another: python pipeline.py serve --port N"
            )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        bound(command),
        env={**os.environ, "PREFECT_SERVER_UI_API_URL": url},
        start_new_session=True,
        text=True,
        stdout=subprocess.DEVNULL,  # a banner that tells how to configure what is configured here
    )
    try:
        wait_for(url, process)
        sys.stdout.write(f"Prefect's server and pages: http://127.0.0.1:{port}\n")
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        end_group(process)


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Waits until a server answers; raises UserError if it ended or takes too long."""
    end = time.monotonic() + STARTUP
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise UserError(f"Prefect's server at {url} didn't start: expected an answer within {STARTUP:.0f} s.")
