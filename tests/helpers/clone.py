"""A clone of this project with a small world in it, for tests that drive DVC and the command line for real."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.helpers.project import REPO, make_inputs, make_params

POLICIES = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000, "steps": 30},
    "sft": {"method": "sft"},
}
OUTS = ["data/comparisons", "data/shards", "models", "curves", "images", "metrics", "reports"]


def run(*command: str, cwd: Path, ok: bool = True) -> str:
    """A command's output, both streams."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600)
    output = done.stdout + done.stderr
    assert not ok or done.returncode == 0, output
    return output


def environment() -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def ran(output: str) -> set[str]:
    """The stages whose command DVC ran."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def digest(folder: Path, names: list[str] = OUTS) -> dict[str, str]:
    """SHA-256 of every file below some folders, but hidden ones: git's, not DVC's."""
    files = [file for name in names for file in sorted((folder / name).rglob("[!.]*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def clone(folder: Path) -> Path:
    """A git repository with this one's tracked files as they are now, and a small project's inputs and params."""
    copy_tracked(folder)
    make_inputs(folder)
    make_params(folder, POLICIES, probe={"rewards": []})
    commit_all(folder)
    return folder


def copy_tracked(folder: Path) -> None:
    """Copies this repository's tracked files as they are now, but `assets`, into a new folder."""
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.strip("\0").split("\0"):
        if not name.startswith("assets/") and (REPO / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((REPO / name).read_bytes())


def commit_all(folder: Path) -> None:
    """Makes a folder a git repository with all its files, also those that keep ignored folders."""
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "add", "-f", *(str(path.relative_to(folder)) for path in folder.rglob(".gitkeep")), cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "all", cwd=folder)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
