"""Describes what made the results: the commit and the versions of packages."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "dvc", "mlflow", "prefect")


def versions(packages: Sequence[str] = PACKAGES) -> list[tuple[str, str]]:
    """Returns names and versions: Python's, installed packages', and the commit."""
    return [
        ("Python", platform.python_version()),
        *((name, version(name)) for name in packages),
        ("git commit", git_commit()),
    ]


def git_commit() -> str:
    """Returns the commit that is checked out, and whether files differ from it; `none` outside of a repository."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit + (" with changes" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
