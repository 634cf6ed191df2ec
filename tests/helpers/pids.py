"""Whether processes that a test started live and end, by their numbers."""

import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def pid_in(path: Path) -> int:
    """The number that a process writes to a file when it starts."""
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} wasn't written"
        time.sleep(0.05)
    return int(path.read_text())


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)
