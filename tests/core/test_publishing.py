"""A published folder: whole, with nothing else in it, readable as the umask says, also on another file system."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffalign.core import publishing
from diffalign.core.errors import UserError
from diffalign.core.files import temporary_name
from tests.helpers import disks


def tree(folder: Path) -> dict[str, str]:
    """The files of a folder with their text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, **texts: str) -> Path:
    """Makes a folder with some files."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    with disks.elsewhere(tmp_path) as folder:
        if folder is None:
            pytest.skip(f"none of the mounted file systems but that of {tmp_path} takes files")
        yield folder


def test_publish_replaces_a_folder(tmp_path: Path) -> None:
    new, old = fill(tmp_path / "new", two="2"), fill(tmp_path / "old", one="1")
    publishing.publish(new, old)
    assert tree(old) == {"two": "2"}
    assert not new.exists()


def test_publish_to_another_file_system_copies_beside_and_renames(tmp_path: Path, elsewhere: Path) -> None:
    new = fill(tmp_path / "new", **{"a": "2", "deep/b": "3"})
    old = fill(elsewhere / "data" / "shards", one="1")
    publishing.publish(new, old)
    assert tree(elsewhere) == {"data/shards/a": "2", "data/shards/deep/b": "3"}, "and nothing temporary"
    assert not new.exists()


def test_through_a_link_to_another_file_system(tmp_path: Path, elsewhere: Path) -> None:
    """`data` moved to a larger disk, a link in its place; and an out that is a link itself."""
    (tmp_path / "data").symlink_to(elsewhere)
    publishing.publish(fill(tmp_path / "new", a="1"), tmp_path / "data" / "shards")
    assert tree(elsewhere) == {"shards/a": "1"}
    fill(elsewhere / "images", old="1")
    (tmp_path / "images").symlink_to(elsewhere / "images")
    publishing.check_target(tmp_path / "images")
    publishing.publish(fill(tmp_path / "new", b="2"), tmp_path / "images")
    assert (tmp_path / "images").is_symlink()
    assert tree(tmp_path / "images") == {"b": "2"}


def test_a_copy_that_fails_leaves_what_was_there(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = fill(tmp_path / "new", a="2"), fill(elsewhere / "out", a="1")

    def full(source: Path, target: Path, **_: object) -> None:
        shutil.copystat(source, target)
        raise shutil.Error([(str(source), str(target), f"[Errno 28] {os.strerror(errno.ENOSPC)}")])

    def copytree(source: Path, target: Path, **_: object) -> None:
        target.mkdir()
        (target / "half").touch()
        full(source, target)

    monkeypatch.setattr(shutil, "copytree", copytree)
    with pytest.raises(UserError, match="No space left while writing"):
        publishing.publish(new, old)
    assert tree(elsewhere) == {"out/a": "1"}
    assert tree(new) == {"a": "2"}


def test_what_a_killed_writer_left_isnt_published(tmp_path: Path) -> None:
    new = fill(tmp_path / "new", **{"errors": "1", ".errors.77.tmp": "half", "unet/.tmpYy9t6C": "half", "unet/w": "2"})
    publishing.publish(new, tmp_path / "out")
    assert tree(tmp_path / "out") == {"errors": "1", "unet/w": "2"}


def test_what_a_killed_publish_left_beside_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    fill(tmp_path / f".out.{dead.pid}.tmp", half="1")
    publishing.publish(fill(tmp_path / "new", a="1"), tmp_path / "out")
    assert tree(tmp_path) == {"out/a": "1"}


MODES = [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]


@pytest.mark.parametrize(("mask", "file", "folder"), MODES)
def test_modes_follow_the_umask(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    """safetensors' own writer gives 0600, a temporary folder 0700."""
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    (new / "unet").mkdir(mode=0o700)
    save_file({"x": torch.zeros(1)}, new / "unet" / "weights.safetensors")
    (new / "policy.json").write_text("{}")
    before = os.umask(mask)
    try:
        publishing.publish(new, tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    assert modes == {"out": folder, "unet": folder, "weights.safetensors": file, "policy.json": file}


def test_the_umask_is_read_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        assert publishing.umask() == 0o027
        monkeypatch.setattr(Path, "exists", lambda _: False)
        assert publishing.umask() == 0o027
    finally:
        assert os.umask(before) == 0o027


def test_replacing_publishes_a_fresh_folder_or_nothing(tmp_path: Path) -> None:
    out = fill(tmp_path / "out", **{"weights": "1", "policy.json": "old"})
    with publishing.replacing(out) as folder:
        (folder / "policy.json").write_text("new")
        assert tree(out) == {"weights": "1", "policy.json": "old"}
    assert tree(out) == {"policy.json": "new"}
    with pytest.raises(ZeroDivisionError), publishing.replacing(out) as folder:
        (folder / "policy.json").write_text("newer")
        raise ZeroDivisionError
    assert tree(tmp_path) == {"out/policy.json": "new"}


def test_what_cant_be_published_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.check_target(tmp_path / "data" / "shards")
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a folder or nothing, found a file"):
        publishing.check_target(tmp_path / "file")
    with pytest.raises(UserError, match="is a mount point"):
        publishing.check_target(Path("/proc"))

    def refuse(path: Path, *_: object, **__: object) -> None:
        if path == temporary_name(tmp_path / "out"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"can't be written to \(Read-only file system\)"):
        publishing.check_target(tmp_path / "out")
