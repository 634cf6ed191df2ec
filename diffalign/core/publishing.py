"""Publishing a folder: what a stage made in its work folder becomes its out, whole, with nothing else in it."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.core.files import (
    disk_errors,
    fsync_folder,
    remove,
    remove_orphans,
    remove_unfinished,
    temporary_name,
)


def check_target(target: Path) -> None:
    """Raises UserError unless `publish` will be able to put a folder at `target`: for use before hours of work."""
    target = target.resolve()
    advice = "Correct that, and run the same command again."
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: expected a folder or nothing, found a file that isn't ours to replace. {advice}")
    if os.path.ismount(target):
        raise UserError(
            f"{target} is a mount point, and a folder that is replaced as a whole can't be. Mount its parent, "
            f"{target.parent}, or make {target.name} a link into the other file system."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary_name(target).mkdir(exist_ok=True)
        temporary_name(target).rmdir()
    except OSError as error:
        raise UserError(f"{target.parent} can't be written to ({error.strerror}). {advice}") from error


def publish(source: Path, target: Path) -> None:
    """Replaces folder `target` by folder `source` with a rename, of a copy where they are on two file systems.

    What is published has no temporary files, and the modes that the umask says: safetensors writes 0600. Where
    `target` is a link, it stays, and the folder that it leads to is replaced. Raises UserError on a full disk.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(target)
    remove_unfinished(source)
    set_modes(source)
    beside = source
    if source.stat().st_dev != target.parent.stat().st_dev:
        beside = temporary_name(target)
        with disk_errors(target):
            copy_folder(source, beside)
    remove(target)
    os.replace(beside, target)
    fsync_folder(target.parent)
    remove(source)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Gives an empty folder that is published at `target` at the end of the block: what was there is gone then."""
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = temporary_name(target)
    remove(fresh)
    fresh.mkdir()
    try:
        yield fresh
        publish(fresh, target)
    finally:
        remove(fresh)


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder with its modes, each file on the disk when this returns; leaves nothing when it fails."""
    remove(target)
    try:
        shutil.copytree(source, target, symlinks=True)
        for path in target.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
    except shutil.Error as error:
        remove(target)
        reasons = [str(reason) for _, _, reason in error.args[0]]  # the numbers are in their text only
        full = any(os.strerror(errno.ENOSPC) in reason for reason in reasons)
        text = f"{len(reasons)} files couldn't be copied, the first: {reasons[0]}"
        raise OSError(errno.ENOSPC if full else errno.EIO, text, str(target)) from error
    except BaseException:
        remove(target)
        raise


def set_modes(folder: Path) -> None:
    """Gives a folder and all in it the modes of newly made ones: 0777 and 0666 without the bits of the umask."""
    mask = umask()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def umask() -> int:
    """Returns the umask of this process; on Linux without setting it for a moment, as other threads write files."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^Umask:\s*([0-7]+)$", status.read_text(), re.MULTILINE)):
        return int(found[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
