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

from prefect import get_client, serve
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.runtime.processes import bound, end_group
from diffalign.tracking.location import shown
from flows import deployments

STARTUP = 300.0
"""Seconds that a server may take to start."""


def serve_deployments(port: int) -> None:
    """Serves until stopped, with the API that is configured or a server of its own on loopback.

    Raises UserError for a prefect.yaml that can't be served, and where the configured API can't be reached.
    """
    made = deployments.make(Path("prefect.yaml"))  # before a server is waited for
    check_api()
    with nullcontext() if get_current_settings().api.url else server(port):
        serve(*made)


def check_api() -> None:
    """Raises UserError where a Prefect API is configured and doesn't answer."""
    url = get_current_settings().api.url
    if not url:
        return
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Prefect's API at {shown(url)} can't be reached: {reason}. Expected a running server: start it, correct "
            "PREFECT_API_URL, or unset it (`run` and `serve` start a server of their own then)."
        )


@contextmanager
def server(port: int) -> Iterator[str]:
    """Runs a Prefect server on loopback, with its UI, and makes it the API of this process; gives its URL."""
    url = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(
                f"Port {port} is in use. If a Prefect server is there: PREFECT_API_URL={url} {COMMAND} serve. "
                f"Else choose another: {COMMAND} serve --port N"
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
