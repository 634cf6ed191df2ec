"""Notes wall times of stages and rates of trainings in `runs/timings.jsonl`, untracked.

An out with a time in it would differ with every run.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path("runs/timings.jsonl")


def record(stage: str, seconds: float, cached: bool = False) -> None:
    """Appends a line: the stage's name, its wall time in seconds, whether it came from the cache, and when it ended."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    append({"stage": stage, "seconds": round(seconds, 3), "cached": cached, "at": at})


def record_rate(policy: str, pairs_per_second: float, waited: float, peak_bytes: int, about: dict[str, Any]) -> None:
    """Appends a line: how fast a policy trained, and `about` what decides that: its params, the model, the machine.

    Of the first process: `waited`, the share of the time in which it waited for batches, and its peak memory.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    took = {"pairs_per_second": round(pairs_per_second, 4), "waited": round(waited, 4), "peak_bytes": peak_bytes}
    append({"rate": policy, **took, "about": about, "at": at})


def append(values: dict[str, Any]) -> None:
    """Appends a line, after ending one that a crash cut short."""
    line = json.dumps(values)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with open(FILE, "a+") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        cut = file.read() not in ("", "\n")  # a crash left half a line
        file.write("\n" * cut + line + "\n")


def read() -> list[dict[str, Any]]:
    """Returns the lines of stages, oldest first: `{"stage", "seconds", "cached", "at"}`."""
    return [line for line in lines() if line.keys() >= {"stage", "seconds", "cached", "at"}]


def rates() -> list[dict[str, Any]]:
    """Returns trainings' rates, oldest first: `{"rate", "pairs_per_second", "waited", "peak_bytes", "about", "at"}`."""
    return [line for line in lines() if "rate" in line]


def lines() -> list[dict[str, Any]]:
    """Returns all lines, oldest first, without those that a crash cut short or that were damaged since."""
    found = []
    for line in FILE.read_bytes().splitlines() if FILE.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def newest() -> dict[str, dict[str, Any]]:
    """Returns for each stage the last time it ran; `cached` tells whether it has since come from the cache."""
    found: dict[str, dict[str, Any]] = {}
    for line in read():
        ran = found.get(line["stage"])
        if line["cached"] and ran:
            line = {**ran, "cached": True}
        found[line["stage"]] = line
    return found
