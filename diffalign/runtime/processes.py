"""Runs commands in groups of their own, so that none is left running when its starter is stopped or killed."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

GRACE = 20.0
"""Seconds between asking a group to end (SIGTERM) and ending it (SIGKILL)."""
WATCH = 1.0
"""Seconds between looks at the DVC that runs a stage."""


PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks the kernel (Linux only) for a SIGKILL to this process when its parent ends, however it ends.

    For a process that only notes a SIGTERM, and would go on for a while.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def bound(command: list[str]) -> list[str]:
    """Returns a command that gets a SIGTERM when its starter ends, however it ends; unchanged where setpriv is missing.

    In a process that is killed nothing can be cleaned up: setpriv (util-linux) asks the kernel to do it.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else command


def dvc_above() -> psutil.Process | None:
    """Returns the process of DVC that runs this one, None if there is none."""
    return next((p for p in psutil.Process().parents() if any(Path(w).name == "dvc" for w in _command(p)[:3])), None)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def die_with_dvc() -> None:
    """Ends this process (SIGTERM) soon after the DVC that runs it has ended, however it ended.

    A killed `dvc repro` would leave its stage at work otherwise. A thread looks, since the kernel can only tell of the
    parent's end, and with some shells (dash) that is the shell between them. Run by hand a stage isn't watched.
    """
    owner = dvc_above()

    def watch(dvc: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
                time.sleep(WATCH)
        os.kill(os.getpid(), signal.SIGTERM)

    if owner:
        threading.Thread(target=watch, args=[owner], name="die with DVC", daemon=True).start()


def run_group(command: list[str], on_line: Callable[[str], None], timeout: float | None = None, **env: str) -> int:
    """Runs a command in its own session and gives each line of its output (stdout and stderr) to `on_line`.

    Returns its exit code, negative for a signal. When an exception comes up here (a cancellation, Ctrl-C), and after
    `timeout` seconds, which raises TimeoutError, the whole group is ended: SIGTERM, then SIGKILL. `env` is added to
    the environment.
    """
    process = subprocess.Popen(
        bound(command),
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        end_group(process)

    timer = threading.Timer(timeout or 0, expire)
    try:
        if timeout:
            timer.start()
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                on_line(line.rstrip("\n"))
        code = process.wait()
    finally:
        timer.cancel()
        end_group(process)
    if expired.is_set():
        raise TimeoutError(f"ended after {timeout:g} s, the time it was given")
    return code


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends a command started in its own session and all that is left in it: SIGTERM, after a while SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        end, signalled = time.monotonic() + GRACE, False
        while time.monotonic() < end:
            if process.poll() is not None and not _members(process.pid):
                return
            if not signalled:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                signalled = True
            time.sleep(0.05)


def _members(group: int) -> list[int]:
    """Lists the processes of a group, without zombies: nobody may be there to reap them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
