"""Downloads files from the hub: resumes them after a kill, verifies them, then renames them into place."""

import os
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.models.parts import weights

THREADS = 4
UNPACKED = {"accept-encoding": "identity"}
"""A compressed response couldn't be resumed at a byte."""


@dataclass(frozen=True)
class Remote:
    """A file on the hub: its path there, its size in bytes, its checksum, its place here and that of its partial file.

    `algorithm` is sha256 for files in the hub's LFS, git (the blob's id) for the small others.
    """

    path: str
    url: str
    size: int
    algorithm: Literal["sha256", "git"]
    digest: str
    target: Path
    part: Path
    hub: bool = True
    """Whether the hub has it, which is told the user's token; nobody else is."""

    @property
    def checksum(self) -> str:
        """Returns "algorithm:digest", as in the lock file."""
        return f"{self.algorithm}:{self.digest}"

    def matches(self, path: Path) -> bool:
        """Tells whether a local file has the size and the checksum of the hub's."""
        return size_of(path) == self.size and weights.digest(path, self.algorithm) == self.checksum


def download(what: str, remotes: list[Remote], done: Callable[[Remote], None]) -> None:
    """Downloads files, a few at a time, and calls `done` in the caller's thread for each finished one.

    An error or Ctrl-C stops the other downloads at once; their partial files stay, and the next call resumes them.
    Raises UserError for a damaged file or a full disk; passes on the errors of the hub's client.
    """
    counter = _Counter(what, remotes)
    pool = ThreadPoolExecutor(THREADS)
    running = {pool.submit(_bring, remote, counter): remote for remote in remotes}
    try:
        for future in as_completed(running):
            future.result()
            done(running[future])
            counter.finish()
    finally:
        counter.stopped = True
        pool.shutdown(cancel_futures=True)


def _bring(remote: Remote, counter: "_Counter") -> None:
    from huggingface_hub.file_download import http_get

    remote.part.parent.mkdir(parents=True, exist_ok=True)
    if size_of(remote.part) > remote.size:
        remote.part.unlink()
    here = size_of(remote.part)
    counter.add(here)
    with files.disk_errors(remote.part), open(remote.part, "ab") as file:
        http_get(
            remote.url,
            file,
            resume_size=here,
            headers={**(_headers() if remote.hub else {}), **UNPACKED},
            expected_size=remote.size,
            tqdm_class=cast("type[Any]", partial(_Bar, counter)),
        )
        file.flush()
        os.fsync(file.fileno())
    if not remote.matches(remote.part):
        remote.part.unlink()
        raise UserError(f"{remote.url} arrived damaged: expected {remote.checksum}. Run the same command again.")
    remote.target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(remote.part, remote.target)
    files.fsync_folder(remote.target.parent)


def _headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return build_hf_headers()


class _Counter:
    """Counts bytes over all threads and shows the progress; `stopped` ends the downloads at their next chunk."""

    def __init__(self, what: str, remotes: list[Remote]) -> None:
        self.progress, self.bytes, self.total = Progress(what, len(remotes)), 0, sum(r.size for r in remotes)
        self.lock, self.stopped = Lock(), False

    def add(self, size: int) -> None:
        if self.stopped:
            raise CancelledError
        with self.lock:
            self.bytes += size
            self.progress.update(0, self._extra())

    def finish(self) -> None:
        with self.lock:
            self.progress.update(1, self._extra())

    def _extra(self) -> str:
        return f"{gigabytes(self.bytes)} of {gigabytes(self.total)}"


class _Bar:
    """Replaces the progress bar of the hub's client."""

    def __init__(self, counter: _Counter, **_: Any) -> None:
        self.update = counter.add

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def size_of(path: Path) -> int:
    """Returns a file's size in bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def gigabytes(size: int) -> str:
    """Returns a size in bytes as text in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
