"""Shows MLflow's pages on loopback: it starts without any run, beside a taken port, and when mirroring fails."""

import os
import socket
import subprocess
import sys

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.runtime.processes import bound, end_group
from diffalign.tracking import pages
from diffalign.tracking.location import uri
from diffalign.tracking.mlflow_store import Store
from diffalign.tracking.sync import sync

TRIES = 20
"""Ports that are tried, from the usual one on."""


def run(port: int | None) -> None:
    """Brings MLflow up to date and serves its pages until stopped; a server elsewhere is named only.

    `port` None: the usual one, or the next that is free. Raises UserError for a port that is in use, and where
    MLflow's database can't be used.
    """
    served = not uri().startswith("http")
    if served:
        port = free_port(port)
        os.environ.update(DIFFALIGN_MLFLOW_UI=pages.base(port))
    try:
        sys.stdout.write(f"{sync()}\n")
    except UserError as error:
        sys.stderr.write(f"warning: MLflow isn't up to date: {error}\n")
    if served and port is not None:
        store = Store()  # an absent database is made, an old one is migrated
        sys.stdout.write(f"MLflow's pages, until Ctrl-C: {pages.base()}/{pages.page(store.experiment)}\n")
        sys.stdout.flush()
        serve(port)


def free_port(port: int | None) -> int:
    """Returns a port that nothing listens at, `port` itself where it's given; UserError where it's in use."""
    if port is not None:
        if in_use(port):
            raise UserError(f"Port {port} is in use, perhaps by MLflow. Choose another: {COMMAND} ui --port N")
        return port
    last = pages.PORT + TRIES - 1
    found = next((number for number in range(pages.PORT, last + 1) if not in_use(number)), None)
    if found is None:
        raise UserError(f"Ports {pages.PORT} to {last} are in use. Choose another: {COMMAND} ui --port N")
    if found != pages.PORT:
        sys.stderr.write(f"Port {pages.PORT} is in use, perhaps by another MLflow; this one takes {found}\n")
    return found


def in_use(port: int) -> bool:
    """Tells whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def serve(port: int) -> None:
    """Serves the pages on loopback until stopped."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(bound(command), env=env, start_new_session=True, text=True)
    try:
        process.wait()
    finally:  # Ctrl-C comes up here only, and ends it without its tracebacks
        end_group(process)
