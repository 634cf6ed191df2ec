"""MLflow's side of the mirror: runs, their params, points and files. The only module that imports MLflow, and late."""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json
from diffalign.tracking import artifacts as outs
from diffalign.tracking import dag, run_records

EXPERIMENT = "diffalign"
LOCAL = Path(".mlflow")
STAGE, FINGERPRINT, DAG, LAUNCH, COMPLETE, SAME = (
    f"diffalign.{name}" for name in ("stage", "fingerprint", "dag", "launch", "complete", "same_as")
)
PARENT = "mlflow.parentRunId"


class Unreachable(UserError):
    """MLflow can't be reached, or refused what it was sent."""


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
        if not found:
            return self.create(time.strftime("pipeline %Y-%m-%d %H:%M"), {LAUNCH: launch}, time.time())
        run_id = str(found[0].info.run_id)
        with reaching():
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def child(self, parent: str, stage: str, params: dict[str, Any], started: float, **tags: str) -> str:
        """Makes a stage's run with its params and returns its id; `started` in seconds since the epoch."""
        named = {key.replace("__", "."): value for key, value in tags.items()}
        run_id = self.create(stage, {PARENT: parent, STAGE: stage, **named}, started)
        self.log_params(run_id, params)
        return run_id

    def create(self, name: str, tags: dict[str, str], started: float) -> str:
        """Makes a run; `started` in seconds since the epoch."""
        tags = {**tags, "diffalign.host": socket.gethostname()}
        with reaching():
            run = self.client.create_run(self.experiment, start_time=int(started * 1000), tags=tags, run_name=name)
        return str(run.info.run_id)

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        with reaching():
            return dict(self.client.get_run(run_id).data.tags)

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

    def settle(self, locked: dict[str, Any]) -> list[run_records.Record]:
        """Ends the runs of stages that were killed, and gives live runs the fingerprint that dvc.lock has by now."""
        found = run_records.read(place())
        for record in found:
            if run_records.running(record):
                continue
            if not record["closed"]:
                status = "KILLED" if record["status"] == "RUNNING" else record["status"]
                self.close(record["run_id"], status)
                self.close(record["parent_id"], status)
                record |= {"status": status, "closed": True}
                run_records.write(record)
            entry = locked.get(record["stage"])
            unnamed = record["status"] == "FINISHED" and not record["fingerprint"]
            if unnamed and entry and run_records.matches(record, entry):
                record["fingerprint"] = dag.fingerprint(entry)
                self.set_tags(record["run_id"], {FINGERPRINT: record["fingerprint"]})
                run_records.write(record)
        return found
