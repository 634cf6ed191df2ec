"""MLflow mirrors the pipeline, it doesn't own it: a run for each pipeline run, with a child for each stage.

Stages write files and know nothing of this. A child is keyed by its stage's fingerprint, its parent by the DAG's, both
of dvc.lock; so bringing the same state twice adds nothing. This is the only module that imports MLflow, and late.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from diffalign import dag, outs, records, summary, timings
from diffalign.errors import Stopped, UserError
from diffalign.files import canonical_json, lock, sha256_file, write_json
from diffalign.live import Live, Unreachable
from diffalign.processes import bound, end_group

EXPERIMENT = "diffalign"
LOCAL = Path(".mlflow")
STAGE, FINGERPRINT, DAG, LAUNCH, COMPLETE, SAME = (
    f"diffalign.{name}" for name in ("stage", "fingerprint", "dag", "launch", "complete", "same_as")
)
PARENT = "mlflow.parentRunId"


@contextmanager
def stage_run(stage: str, params: dict[str, Any]) -> Iterator[None]:
    """While the body runs, the stage has a run in MLflow that shows its params, its curve and, at the end, its outs.

    `params` is the whole of params.yaml. Short stages and outages are left to `sync`. `DIFFALIGN_TRACKING=0` turns
    it off.
    """
    if off():
        yield
        return
    mirror = Live(stage, params, Store)
    mirror.start()
    status, reason = "FAILED", ""
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, Stopped):
        status = "KILLED"
        raise
    except UserError as error:
        reason = str(error)
        raise
    finally:
        mirror.finish(status, reason)


def off() -> bool:
    """Whether the mirror is switched off."""
    return os.environ.get("DIFFALIGN_TRACKING") == "0"


def uri() -> str:
    """Where MLflow is: `MLFLOW_TRACKING_URI`, or SQLite in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL.resolve()}/mlflow.db"


def place() -> str:
    """The same, fit to be shown and kept: without a name, a password and a query, which may hold them too."""
    return re.sub("//[^@]*@", "//", uri().partition("?")[0])


@contextmanager
def reaching() -> Iterator[None]:
    """Turns what MLflow raises when it's away or refuses something into Unreachable."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(uri(), place())[:300]
        raise Unreachable(
            f"MLflow at {place()} can't be used: {reason}. Expected a running server or a writable file there; start "
            "it, or correct MLFLOW_TRACKING_URI."
        ) from error


class Store:
    """The runs of our experiment in MLflow; every method raises Unreachable if it's away."""

    def __init__(self) -> None:
        """Connects; makes the experiment, and for the default the database."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own patience is over four minutes
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of each table that it makes,
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # and of each run that ends
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self.place = place()
        self.metric, self.param, self.tag = Metric, Param, RunTag
        local = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            LOCAL.mkdir(exist_ok=True)
            local = (LOCAL / "artifacts").resolve().as_uri()
        with reaching():
            self.client = MlflowClient(tracking_uri=uri())
            self.experiment = self.find_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT), local)

    def find_experiment(self, name: str, artifacts: str | None) -> str:
        """The id of an experiment, made if missing, with its artifacts at a URI (by default where the server says)."""
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, artifacts))
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):  # another process was faster
                return str(found.experiment_id)
            raise

    def search(self, **tags: str) -> list[Any]:
        """Runs that have all the tags (`__` in a name is a dot), newest first."""
        query = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in tags.items())
        with reaching():
            return list(self.client.search_runs([self.experiment], query, max_results=1000))

    def parent(self, launch: str) -> str:
        """The id of the run of a pipeline launch, made if missing, and running from now on."""
        found = self.search(diffalign__launch=launch)
        with reaching():
            if found:
                self.client.update_run(found[0].info.run_id, status="RUNNING")
                return str(found[0].info.run_id)
            return self.create(time.strftime("pipeline %Y-%m-%d %H:%M"), {LAUNCH: launch}, time.time())

    def child(self, parent: str, stage: str, params: dict[str, Any], started: float, **tags: str) -> str:
        """Makes a stage's run with its params and returns its id; `started` in seconds since the epoch."""
        named = {key.replace("__", "."): value for key, value in tags.items()}
        with reaching():
            run_id = self.create(stage, {PARENT: parent, STAGE: stage, **named}, started)
        self.log_params(run_id, params)
        return run_id

    def create(self, name: str, tags: dict[str, str], started: float) -> str:
        """Makes a run; `started` in seconds since the epoch."""
        tags = {**tags, "diffalign.host": socket.gethostname()}
        run = self.client.create_run(self.experiment, start_time=int(started * 1000), tags=tags, run_name=name)
        return str(run.info.run_id)

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Logs nested params under dotted names, a hundred at a time (MLflow's limit)."""
        flat = dag.flatten(params)
        entries = [
            self.param(key, value if isinstance(value, str) else canonical_json(value)) for key, value in flat.items()
        ]
        with reaching():
            for first in range(0, len(entries), 100):
                self.client.log_batch(run_id, params=entries[first : first + 100])

    def log_points(self, run_id: str, points: list[outs.Point]) -> None:
        """Logs points, a thousand at a time (MLflow's limit)."""
        now = int(time.time() * 1000)
        entries = [self.metric(point.key, point.value, now, point.step) for point in points]
        with reaching():
            for first in range(0, len(entries), 1000):
                self.client.log_batch(run_id, metrics=entries[first : first + 1000])

    def complete(self, run_id: str, paths: list[str], seconds: float | None, heavy: bool = True) -> None:
        """Logs what is missing of a stage's outs and marks the run as complete; again does no harm."""
        if found := outs.conventions(paths):
            self.log_params(run_id, {"conventions": found})
        self.log_missing(run_id, outs.points(paths) + ([outs.Point("seconds", seconds, 0)] if seconds else []))
        self.log_files(run_id, outs.files(paths, heavy))
        with reaching():
            self.client.set_tag(run_id, COMPLETE, "true")

    def log_missing(self, run_id: str, points: list[outs.Point]) -> None:
        """Logs those points that the run doesn't have."""
        with reaching():
            logged = {
                (key, metric.step)
                for key in self.client.get_run(run_id).data.metrics
                for metric in self.client.get_metric_history(run_id, key)
            }
        self.log_points(run_id, [point for point in points if (point.key, point.step) not in logged])

    def log_files(self, run_id: str, files: list[tuple[Path, str]]) -> None:
        """Logs files and folders as artifacts."""
        with reaching():
            for path, target in files:
                (self.client.log_artifacts if path.is_dir() else self.client.log_artifact)(run_id, str(path), target)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Sets tags at once."""
        with reaching():
            self.client.log_batch(run_id, tags=[self.tag(key, value) for key, value in tags.items()])

    def describe(self, run_id: str, text: str) -> None:
        """Sets a run's description, Markdown that its page begins with; cut where MLflow would refuse it."""
        self.set_tags(run_id, {"mlflow.note.content": text[:5000]})

    def close(self, run_id: str, status: str, ended: float | None = None) -> None:
        """Ends a run: FINISHED, FAILED or KILLED; `ended` in seconds since the epoch, now by default."""
        with reaching():
            self.client.set_terminated(run_id, status, int(ended * 1000) if ended else None)

    def settle(self, locked: dict[str, Any]) -> list[records.Record]:
        """Ends the runs of stages that were killed, and gives live runs the fingerprint that dvc.lock has by now."""
        found = records.read(place())
        for record in found:
            if records.running(record):
                continue
            if not record["closed"]:
                status = "KILLED" if record["status"] == "RUNNING" else record["status"]
                self.close(record["run_id"], status)
                self.close(record["parent_id"], status)
                record |= {"status": status, "closed": True}
                records.write(record)
            entry = locked.get(record["stage"])
            unnamed = record["status"] == "FINISHED" and not record["fingerprint"]
            if unnamed and entry and records.matches(record, entry):
                record["fingerprint"] = dag.fingerprint(entry)
                self.set_tags(record["run_id"], {FINGERPRINT: record["fingerprint"]})
                records.write(record)
        return found


def sync() -> str:
    """Brings MLflow up to date with dvc.lock and the outs on disk; returns what to tell the user.

    Fast, without MLflow, where nothing is new. Raises Unreachable if MLflow is away, UserError where outs are missing.
    """
    if off():
        return "MLflow is switched off by DIFFALIGN_TRACKING=0"
    if not dag.lock():
        return "Nothing to bring to MLflow yet: dvc.lock isn't there. Make it: dvc repro"
    state = {"uri": place(), "lock": sha256_file(Path("dvc.lock"))}
    if summary.SYNCED.exists() and (LOCAL / "mlflow.db").exists() | bool(os.environ.get("MLFLOW_TRACKING_URI")):
        synced = json.loads(summary.SYNCED.read_text())
        if (
            "path" in synced
            and {key: synced[key] for key in state} == state
            and all(map(settled, records.read(place())))
        ):
            return f"MLflow is up to date: {base_link()}/{synced['path']}"
    records.FOLDER.mkdir(parents=True, exist_ok=True)
    with lock(records.FOLDER):
        return _sync(Store(), state)


def settled(record: records.Record) -> bool:
    """Whether nothing is left to tell MLflow about a run that was shown live."""
    return bool(record["closed"] and (record["fingerprint"] or record["status"] != "FINISHED"))


def _sync(store: Store, state: dict[str, str]) -> str:
    locked = {name: dag.lock()[name] for name in dag.graph() if name in dag.lock()}
    found = store.settle(locked)
    if busy := [record["stage"] for record in found if records.running(record)]:
        return f"{', '.join(busy)} is running and shown live in MLflow; the rest after it ends: python pipeline.py sync"
    missing = [out["path"] for entry in locked.values() for out in entry["outs"] if not Path(out["path"]).exists()]
    if missing:
        raise UserError(f"Outs in dvc.lock aren't on disk: {', '.join(missing)}. Bring them: dvc checkout, or dvc pull")
    parent = _parent(store, locked, found)
    children = {run.data.tags.get(FINGERPRINT): run for run in store.search(mlflow__parentRunId=parent)}
    times, new = timings.newest(), 0
    for name, entry in locked.items():
        child = children.get(dag.fingerprint(entry))
        if child is None or COMPLETE not in child.data.tags:
            _mirror(store, parent, name, entry, child, times.get(name))
            new += 1
    if new or not store.search(diffalign__dag=dag.fingerprint(locked), diffalign__complete="true"):
        _finish_parent(store, parent, locked)
    path = f"#/experiments/{store.experiment}/runs"
    link = f"{base_link()}/{path}"
    write_json(summary.SYNCED, {**state, "path": path, "link": link, "run": parent})
    return f"MLflow: {new} of {len(locked)} stages brought there\n  all runs   {link}\n  this one   {link}/{parent}"


def _parent(store: Store, locked: dict[str, Any], found: list[records.Record]) -> str:
    """The id of the pipeline run with this state: the one that has it, the live one that made it, or a new one."""
    fingerprint = dag.fingerprint(locked)
    if runs := store.search(diffalign__dag=fingerprint):
        return str(runs[0].info.run_id)
    prints = {dag.fingerprint(entry) for entry in locked.values()}
    for record in reversed(found):
        if record["fingerprint"] in prints:
            with reaching():
                tags = store.client.get_run(record["parent_id"]).data.tags
            if DAG not in tags:
                store.set_tags(record["parent_id"], {DAG: fingerprint})
                return str(record["parent_id"])
            break
    with reaching():
        return store.create(time.strftime("pipeline %Y-%m-%d %H:%M"), {DAG: fingerprint}, time.time())


def _mirror(
    store: Store, parent: str, name: str, entry: dict[str, Any], child: Any, timing: dict[str, Any] | None
) -> None:
    """Completes a stage's run, making it if it isn't there. Models and images are kept once for a fingerprint."""
    fingerprint = dag.fingerprint(entry)
    elsewhere = store.search(diffalign__fingerprint=fingerprint, diffalign__complete="true")
    same = elsewhere[0].data.tags.get(SAME, elsewhere[0].info.run_id) if elsewhere else None
    seconds = timing["seconds"] if timing else None
    ended = datetime.fromisoformat(timing["at"]).timestamp() if timing else time.time()
    paths = [out["path"] for out in entry["outs"]]
    params = {k: v for group in entry.get("params", {}).values() for k, v in group.items()}
    run_id = child.info.run_id if child else None
    if run_id is None:
        tags = {"diffalign__fingerprint": fingerprint} | ({"diffalign__same_as": same} if same else {})
        run_id = store.child(parent, name, params, ended - (seconds or 0), **tags)
    if alarms := outs.alarmed(outs.points(paths), params):
        store.describe(run_id, alarms)
    store.complete(run_id, paths, seconds, heavy=same is None)
    store.close(run_id, "FINISHED", ended)


def _finish_parent(store: Store, parent: str, locked: dict[str, Any]) -> None:
    """Gives the pipeline's run the params, the results, the report, and the summary as its description."""
    params = {k: v for entry in locked.values() for group in entry.get("params", {}).values() for k, v in group.items()}
    store.log_params(parent, params)
    paths = [out["path"] for name in ("evaluate", "report") for out in locked.get(name, {}).get("outs", [])]
    if summary.EVALUATION.exists():
        store.describe(parent, summary.markdown())
    store.complete(parent, paths, None)
    store.close(parent, "FINISHED")


def base_link(port: int = 5000) -> str:
    """The address of MLflow's pages: the server's, or where `pipeline.py ui` shows the local database.

    `DIFFALIGN_MLFLOW_UI` names it where people reach the server by another address than the stages do.
    """
    here = place().rstrip("/") if uri().startswith("http") else f"http://127.0.0.1:{port}"
    return os.environ.get("DIFFALIGN_MLFLOW_UI", here)


def serve_ui(port: int) -> None:
    """Serves the UI on loopback until stopped; with a server elsewhere there's nothing to serve."""
    if uri().startswith("http"):
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"Port {port} is in use, perhaps by MLflow. Choose another: python pipeline.py ui --port N")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(bound(command), env=env, start_new_session=True, text=True)
    try:
        process.wait()
    finally:  # Ctrl-C comes up here only, and ends it without its tracebacks
        end_group(process)
