"""One real Prefect server on a free loopback port for all the tests that need it: starting one takes its time."""

import atexit
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from flows.serving import server
from tests.helpers.scratch import environment


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def start() -> str:
    """Starts the server, once, and returns the URL of its API; it ends with the tests, and its folder after it."""
    stack = ExitStack()
    home = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffalign-prefect-", ignore_cleanup_errors=True))
    with patch.dict(os.environ, PREFECT_HOME=home):
        url = stack.enter_context(server(free_port()))
    atexit.register(stack.close)
    return url


def post(path: str, **body: Any) -> Any:
    """Asks the API: a search, such as `flow_runs/filter`, answers with a list."""
    answer = httpx.post(f"{start()}/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def prefect(folder: Path, *arguments: str) -> str:
    """Runs the `prefect` command in a folder, against the server, without a terminal; returns its output."""
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(PREFECT_API_URL=start(), PWD=str(folder)),  # as a shell has it there
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def wait_until(seconds: float, what: str, check: Any) -> Any:
    """Waits for a check to give something true, and returns it; a busy server's refusal (SQLite) is `not yet`."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if value := check():
                return value
        except httpx.TransportError as error:
            last = error
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            last = error
        time.sleep(1)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; the server's last error: {last}")
