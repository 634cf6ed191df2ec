"""Notes each stage's newest run in MLflow, `runs/tracking/stage-STAGE.json`, to find it again later.

A stage runs before DVC writes its entry into dvc.lock, so a run in MLflow that is logged live can't bear the entry's
fingerprint yet. The record says what the run saw when it started; `matches` tells whether an entry is its result.
"""

import os
import socket
from typing import Any

import psutil

from diffalign.core import records
from diffalign.core.files import RUNS, write_json
from diffalign.core.home import COMMAND
from diffalign.runtime import switches
from diffalign.runtime.processes import dvc_above
from diffalign.tracking import dag

FOLDER = RUNS / "tracking"
Record = dict[str, Any]
KEYS = ("stage", "uri", "started", "status", "pid", "created", "closed", "fingerprint", "params", "known")
"""What a record has at least."""


def write(record: Record) -> None:
    """Writes a record in the place of the stage's older one."""
    write_json(FOLDER / f"stage-{record['stage']}.json", record)


def read(uri: str) -> list[Record]:
    """Returns the records of runs that are in the MLflow at `uri`, oldest first."""
    remedy = f"Remove it: its run stays in MLflow, and `{COMMAND} sync` brings the stage's result there again."
    found = [records.plain(path, KEYS, remedy) for path in FOLDER.glob("stage-*.json")]
    return sorted((record for record in found if record["uri"] == uri), key=lambda record: record["started"])


def remove(record: Record) -> None:
    """Forgets a record: its run isn't in MLflow any more."""
    (FOLDER / f"stage-{record['stage']}.json").unlink(missing_ok=True)


def running(record: Record) -> bool:
    """Tells whether the process that made the record is at work still."""
    return record["status"] == "RUNNING" and _created(record["pid"]) == record["created"]


def process() -> dict[str, Any]:
    """Returns what tells this process apart from a later one with the same number."""
    return {"pid": os.getpid(), "created": _created(os.getpid())}


def _created(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def matches(record: Record, entry: dict[str, Any]) -> bool:
    """Tells whether an entry of dvc.lock is a recorded run's result: equal params, code and outs of other stages."""
    params = {key: value for group in entry.get("params", {}).values() for key, value in group.items()}
    deps = dag.checksums(entry.get("deps", []))
    return dag.lookup(record["params"], list(params)) == params and all(
        record["known"].get(path, md5) == md5 for path, md5 in deps.items()
    )


def launch() -> str:
    """Names the pipeline run that this stage is part of: the flow's, or the `dvc repro` that started it."""
    if announced := switches.read("DIFFALIGN_LAUNCH"):
        return str(announced)
    owner = dvc_above() or psutil.Process()
    return f"{socket.gethostname()}-{owner.pid}-{owner.create_time():.0f}"
