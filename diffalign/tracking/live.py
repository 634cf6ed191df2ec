"""Mirrors a stage to MLflow while it runs, in a thread: the stage waits for nothing and survives MLflow's absence."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffalign.core.files import RUNS
from diffalign.core.home import COMMAND
from diffalign.monitoring.curve import PREFIX
from diffalign.tracking import artifacts, dag, mirror, pictures, registry, run_records
from diffalign.tracking.mlflow_store import Store, Unreachable

PATIENCE = 5.0
"""Seconds before a stage is worth a live mirror: importing MLflow takes 2 to 6. A shorter stage is left to `sync`."""
INTERVAL = 5.0
"""Seconds between looks at the curve."""
RETRY = 60.0
"""Seconds before MLflow is asked again after an outage."""
LAST_WAIT = 120.0
"""Seconds that a finished stage waits for its last points and its artifacts to be logged."""


class Live(threading.Thread):
    """Follows `runs/live/STAGE.jsonl` and logs its points; at the end the outs.

    `connect` gives the store; `params` is the whole of params.yaml. Call `finish` when the stage has ended.
    """

    def __init__(self, stage: str, params: dict[str, Any], connect: Callable[[], Store]) -> None:
        super().__init__(name="mlflow", daemon=True)
        self.stage, self.params, self.connect = stage, params, connect
        self.started = time.time()
        self.known = dag.known()
        self.curve = Tail(RUNS / "live" / f"{stage}.jsonl", self.started)
        self.status, self.reason = "RUNNING", ""
        self.probed: list[artifacts.Point] = []
        self.note = ""
        self.done = threading.Event()
        self.waiting = threading.Event()
        self.record: run_records.Record | None = None

    def run(self) -> None:
        """Waits a little, then follows the stage, in this thread; after an outage it tries again."""
        if self.done.wait(PATIENCE):
            return
        warned = False
        while True:
            try:
                return self.follow(self.connect())
            except Unreachable as error:
                if not warned:
                    sys.stderr.write(f"warning: {error} The stage goes on; what is missing there: {COMMAND} sync\n")
                warned = True
            self.waiting.set()
            if self.done.wait(RETRY):
                return
            self.waiting.clear()

    def follow(self, store: Store) -> None:
        """Opens the run and logs until the stage ends."""
        if self.record and store.gone(self.record["run_id"]):  # deleted there: shown anew, from its start
            self.record, self.probed, self.note = None, [], ""
            self.curve = Tail(self.curve.path, self.started)
        if self.record is None:
            store.settle(dag.lock())
            self.record = self.open(store)
        while True:
            ended = self.done.wait(INTERVAL)
            new = self.curve.read()
            store.log_points(self.record["run_id"], artifacts.shown(new))
            self.curve.accept()
            self.probed += [point for point in new if point.key.startswith(PREFIX)]
            self.explain(store, self.record["run_id"])
            pictures.log_probes(store, self.record["run_id"], self.curve.path.resolve().parent / "pictures")
            if ended:
                break
        if self.status == "FINISHED":
            paths = [path for path in dag.declared(self.stage)["outs"] if Path(path).exists()]
            mirror.complete(store, self.record["run_id"], self.stage, paths)
        store.close(self.record["run_id"], self.status)
        store.close(self.record["parent_id"], self.status)
        self.record["closed"] = True

    def explain(self, store: Store, run_id: str) -> None:
        """Describes the run by why it failed and by its alarms, where these are others than before."""
        note = "\n\n".join(filter(None, [self.reason, artifacts.alarm_text(self.probed, self.params)]))
        if note != self.note:
            store.describe(run_id, note)
            self.note = note

    def open(self, store: Store) -> run_records.Record:
        """Makes the stage's run under the pipeline's and notes it."""
        parent = store.parent(run_records.launch(), self.params)
        params = dag.lookup(self.params, dag.declared(self.stage)["params"])
        run_id = store.child(parent, self.stage, params, self.started)
        registry.log_data(store, run_id, self.stage)
        record = {
            "stage": self.stage,
            "uri": store.place,
            "run_id": run_id,
            "parent_id": parent,
            "started": self.started,
            "params": self.params,
            "known": self.known,
            "status": "RUNNING",
            "closed": False,
            "fingerprint": None,
            **run_records.process(),
        }
        run_records.write(record)
        return record

    def finish(self, status: str, reason: str = "") -> None:
        """Tells the thread how the stage ended (FINISHED, FAILED, KILLED), and why; waits for its last words."""
        self.status, self.reason = status, reason
        self.done.set()
        end = time.monotonic() + LAST_WAIT
        while self.is_alive() and not self.waiting.is_set() and time.monotonic() < end:
            self.join(0.1)
        if self.record:
            run_records.write(self.record | {"status": status})


class Tail:
    """Reads new lines of a curve that is being written: `read`, then `accept` once they are logged.

    Lines older than `since` (seconds since the epoch) are an earlier run's, until the stage truncates the file.
    """

    def __init__(self, path: Path, since: float) -> None:
        self.path, self.since = path, since
        self.offset = self.next = 0
        self.last = self.newest = -1

    def read(self) -> list[artifacts.Point]:
        """Returns the points of the whole lines that weren't accepted yet, of steps after the last accepted one."""
        self.next, self.newest = self.offset, self.last
        if not self.path.exists() or self.path.stat().st_mtime < self.since:
            return []
        with open(self.path, "rb") as file:
            if self.offset > file.seek(0, 2):
                self.offset = 0
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.next = self.offset + len(whole)
        found = [point for point in artifacts.curve_points(whole.decode()) if point.step > self.last]
        self.newest = max([self.last, *(point.step for point in found)])
        return found

    def accept(self) -> None:
        """Counts what was read last as done."""
        self.offset, self.last = self.next, self.newest
