"""Describes what made the results: when, how long, on what, from which data and commit; versions of packages."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version

from diffalign.reporting.format import duration
from diffalign.reporting.material import Material
from diffalign.reporting.sections import cost
from diffalign.runtime import timings

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "dvc", "mlflow", "prefect")


def line(report: Material) -> str:
    """Returns when the results were made, how long it took, on what machine, from what data, at which commit.

    Times are those that stages noted in `runs/` when they ran here; nothing is said of them where nothing is noted.
    """
    parts = (when(report), trained(report), learnt_from(report), f"commit {short()}")
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


def when(report: Material) -> str:
    """Returns when the last stage of this DAG ended and the wall time of all of them, where they are noted."""
    settings = report.settings
    keys = {"", *settings.policies, *settings.rewards, *settings.reward_models}
    ran = [row for name, row in timings.newest().items() if name.partition("@")[2] in keys and name != "report"]
    if not ran:
        return ""
    at = datetime.fromisoformat(max(row["at"] for row in ran))
    return f"made {at:%Y-%m-%d %H:%M} UTC, {duration(sum(row['seconds'] for row in ran))} for all stages"


def trained(report: Material) -> str:
    """Returns the machine that the hero was trained on, and how many epochs of how many pairs it saw."""
    name = report.roles.hero
    if name is None or name not in report.work:
        return ""
    found = cost.of_training(report, name)
    seen = f", {found['often']} epochs of {found['distinct']} pairs" if report.work[name].pairs else ""
    return f"{name} trained on {found['machine']}{seen}"


def learnt_from(report: Material) -> str:
    """Returns how many comparisons there are, and where they lie."""
    source = report.settings.parameters.get("data", {}).get("path", "")
    count = report.ingested.comparisons
    return f"{count:,} comparisons of {source}" if count and source else ""


def versions(packages: Sequence[str] = PACKAGES) -> list[tuple[str, str]]:
    """Returns names and versions: Python's, installed packages', and the commit."""
    return [
        ("Python", platform.python_version()),
        *((name, version(name)) for name in packages),
        ("git commit", git_commit()),
    ]


def short() -> str:
    """Returns the commit in ten digits, with what `git_commit` adds."""
    commit, *changes = git_commit().split(" ", 1)
    return " ".join([commit[:10], *changes])


def git_commit() -> str:
    """Returns the commit that is checked out, and whether files differ from it; `none` outside of a repository."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return commit + (" with changes" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
