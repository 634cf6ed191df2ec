"""A folder on another file system than a test's own, wherever this machine has one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ENOUGH = 50_000_000
"""Bytes that must be free: a tiny model, its shards and policies take less."""


@contextmanager
def elsewhere(here: Path) -> Iterator[Path | None]:
    """An empty folder on another file system than `here`, removed afterwards; None where no other takes a file."""
    mounts = [Path(partition.mountpoint) for partition in psutil.disk_partitions(all=True)]
    for place in [Path("/dev/shm"), *sorted(mounts)]:
        with suppress(OSError):  # one that can't be looked at or written to
            if place.stat().st_dev == here.stat().st_dev or not os.access(place, os.W_OK):
                continue
            if psutil.disk_usage(str(place)).free < ENOUGH:
                continue
            folder = tempfile.TemporaryDirectory(dir=place)
            break
    else:
        yield None
        return
    with folder as name:
        yield Path(name)
