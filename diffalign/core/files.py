"""Writes files atomically, checks and locks them, and finds work folders: all that survives a kill or a full disk."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from diffalign.core.code import code_hash
from diffalign.core.errors import UserError

RUNS = Path("runs")
"""Untracked work in progress, relative to the repository's root."""
TEMPORARY = ".tmp"
"""Prefix of safetensors' temporary files; ours have it as their suffix."""
PATIENCE = 10.0
"""Seconds that a lock is waited for."""


def sha256_bytes(data: bytes) -> str:
    """Returns the SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hex; reads it in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_of(manifest: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a manifest without its own `checksum`, in hex."""
    return sha256_bytes(canonical_json({key: value for key, value in manifest.items() if key != "checksum"}).encode())


def hash_folder(folder: Path) -> str:
    """Returns the SHA-256, in hex, over the names and contents of the files in a folder."""
    lines = [f"{file.relative_to(folder)}:{sha256_file(file)}" for file in sorted(folder.rglob("*")) if file.is_file()]
    return sha256_bytes("\n".join(lines).encode())


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, or a limit on a file's size, into a `UserError` that names the path; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has the number in its text only
        found = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"No space left while writing {path}. Free some space and run the same command again."
            ) from error
        if number == errno.EFBIG:
            raise UserError(
                f"Writing {path}: the file is larger than `ulimit -f` or its file system allows. Raise the limit, or "
                "put the project on another file system, and run the same command again."
            ) from error
        raise


def temporary_name(path: Path) -> Path:
    """Returns the name under which a file or folder is written before it is renamed to `path`, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write that becomes `path` at the end of the block, atomically: temporary name, fsync, rename.

    An exception in the block leaves what was at `path`. Removes what a killed process left of an earlier write of the
    same file. Raises UserError on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path)
    temporary = temporary_name(path)
    try:
        with disk_errors(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_orphans(path: Path) -> None:
    """Removes the temporary files and folders of `path` whose process is gone."""
    for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = orphan.name.split(".")[-2]
        if number.isdecimal() and not _runs(int(number)):
            remove(orphan)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically. Raises UserError on a full disk."""
    with writing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically, keys sorted; NaN and infinities are refused (missing is None)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes JSON, a value a line, atomically; keys keep their order, NaN and infinities are refused."""
    write_text(path, "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values))


def remove_unfinished(folder: Path) -> None:
    """Makes a folder, or removes the temporary files that a killed process left in it; the caller holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.rglob(".*") if path.name.startswith(TEMPORARY) or path.suffix == ".tmp"]:
        remove(path)


def fsync_folder(path: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def work_folder(stage: str, params: Any, inputs: Iterable[Path], chosen: Mapping[str, str] | None = None) -> Path:
    """Returns the untracked folder of one piece of work, `runs/<stage>-<hash of params, inputs, code>`; makes it.

    `stage` is a stage's name, alone or with a dash and a policy's name behind it. `inputs` are files whose content
    names the inputs completely (manifests with checksums, Parquet files). `chosen` says which of the files that
    dvc.yaml names by a template the work uses, as in `code_hash`. The same work finds what an earlier, killed attempt
    left; other params, inputs or code start afresh. An edited comment or docstring is no other code.
    """
    code = code_hash(stage.partition("-")[0], chosen)
    parts = {"stage": stage, "params": params, "inputs": [sha256_file(p) for p in inputs], "code": code}
    folder = RUNS / f"{stage}-{sha256_bytes(canonical_json(parts).encode())[:16]}"
    if older := [str(path) for path in RUNS.glob(f"{stage}-{'?' * 16}") if path != folder]:
        sys.stderr.write(f"{stage}: unfinished work on other inputs, params or code is left in {', '.join(older)}\n")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Holds an exclusive lock on a work folder, so that an orphan of a killed run can't write beside its successor.

    The lock goes with the process, and with all that inherited the descriptor that it gives. Raises UserError, naming
    the holder, if another process has it and keeps it for some seconds: what was killed may need them to end.
    """
    with open(folder / "lock", "a+") as file:
        end = time.monotonic() + PATIENCE
        while not _locked(file):
            if time.monotonic() > end:
                file.seek(0)
                raise UserError(
                    f"{folder} is in use by process {file.read().strip() or 'unknown'}. "
                    "Wait for it to end, or stop it, and run the same command again."
                )
            time.sleep(0.1)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
