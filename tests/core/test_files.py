"""Atomic writes, locks between processes, work folders."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from diffalign.core import files
from diffalign.core.errors import UserError


def test_a_write_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "a.json"
    files.write_json(target, {"b": 1, "a": [1.5, None, "ü"]})
    assert target.read_text() == '{\n  "a": [\n    1.5,\n    null,\n    "ü"\n  ],\n  "b": 1\n}\n'

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left while writing .*a\.json"):
        files.write_text(target, "new")
    assert '"a"' in target.read_text()
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_a_real_full_device_is_a_users_error() -> None:
    with (
        pytest.raises(UserError, match="No space left"),
        files.disk_errors(Path("/dev/full")),
        open("/dev/full", "wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.disk_errors(tmp_path):
        (tmp_path / "no" / "file").write_text("x")


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})


def test_a_write_removes_what_a_killed_process_left_of_the_same_file(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    orphan, other = tmp_path / f".a.json.{dead.pid}.tmp", tmp_path / f".b.json.{dead.pid}.tmp"
    living = tmp_path / f".a.json.{os.getppid()}.tmp"
    for path in (orphan, other, living):
        path.write_text("half")
    files.write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, other.name, "a.json"])


def test_unfinished_files_are_removed_at_any_depth(tmp_path: Path) -> None:
    """Ours, those of safetensors' own writer, and folders; what belongs there stays, whatever it's called."""
    for name in (".manifest.json.77.tmp", "unet/.tmpYy9t6C", ".step-00000004.tmp/state", "unet/weights", "a.tmp.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files.remove_unfinished(tmp_path)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["a.tmp.json", "unet/weights"]


def test_work_folders_follow_params_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("input").write_text("1")
    first = files.work_folder("train-x", {"a": 1}, [Path("input")])
    assert files.work_folder("train-x", {"a": 1}, [Path("input")]) == first
    assert files.work_folder("train-x", {"a": 2}, [Path("input")]) != first
    Path("input").write_text("2")
    assert files.work_folder("train-x", {"a": 1}, [Path("input")]) != first


def test_a_full_disk_under_safetensors_is_told_too(tmp_path: Path) -> None:
    """safetensors raises an error of its own, the number in its text; its words are those of a real full tmpfs."""
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(UserError, match="No space left while writing"), files.disk_errors(tmp_path):
        raise full
    with pytest.raises(SafetensorError), files.disk_errors(tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "no" / "folder")


def test_a_lock_is_held_as_long_as_who_inherited_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.lock(tmp_path) as held:
        heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held])
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    with pytest.raises(UserError, match="in use"), files.lock(tmp_path):
        pass
    heir.communicate(b"\n")
    with files.lock(tmp_path):
        pass


def test_a_lock_keeps_another_process_out_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from pathlib import Path; from diffalign.core.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(files, "PATIENCE", 0.3)
    with pytest.raises(UserError, match=f"in use by process {holder.pid}"), files.lock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with files.lock(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
