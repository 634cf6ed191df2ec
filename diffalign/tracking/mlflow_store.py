"""Writes to MLflow: runs, their params, points and files. The only module that imports MLflow, and it does so late."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.tracking import artifacts, dag, naming, run_records
from diffalign.tracking.location import (
    ARTIFACTS,
    DATABASE,
    LOCAL,
    back_up,
    is_local,
    note_version,
    noted_version,
    place,
    rehome,
    uri,
)

EXPERIMENT = "diffalign"
STAGE, FINGERPRINT, DAG, LAUNCH, COMPLETE, KIND = (
    f"diffalign.{name}" for name in ("stage", "fingerprint", "dag", "launch", "complete", "kind")
)
PARENT = "mlflow.parentRunId"
TRAININGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow show the experiment as one of trainings, not of language models."""
NOTE = 5000
"""Characters that MLflow takes as a run's description."""
OLD = "out-of-date database schema"
"""Words of MLflow's error for a database that another version of it made."""


class Unreachable(UserError):
    """MLflow can't be reached, or refused what it was sent."""


AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND")
"""MLflow's codes of errors that are about the connection; the others are about what was asked for."""


@contextmanager
def reaching() -> Iterator[None]:
    """Turns what MLflow raises when it's away or refuses something into Unreachable."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(uri(), place())[:300]
        if isinstance(error, MlflowException) and error.error_code not in AWAY:
            advice = (
                f"It answers, but refuses that. Was something deleted there meanwhile? The next `{COMMAND} "
                "sync` makes what is missing anew."
            )
        else:
            advice = "Expected a running server or a writable file there; start it, or correct MLFLOW_TRACKING_URI."
        raise Unreachable(f"MLflow at {place()} can't be used: {reason}. {advice}") from error


def open_database() -> Any:
    """Opens the project's own database and returns its client; migrates it, after a copy, where another MLflow made it.

    Raises Unreachable for one that can't be migrated.
    """
    from mlflow import MlflowClient, __version__
    from mlflow.exceptions import MlflowException

    copy = back_up() if DATABASE.exists() and noted_version() != __version__ else None
    try:
        client = MlflowClient(tracking_uri=uri())  # it reads the tables, and refuses old ones
    except MlflowException as error:
        if OLD not in str(error):
            raise
        copy = copy or back_up()
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise Unreachable(
                f"{place()} was made by another version of MLflow, a newer one perhaps: {__version__} can't migrate "
                f"it. Install that version, or move the file away: the next `{COMMAND} sync` makes a new one. "
                f"MLflow says: {reason}"
            ) from error
        client = MlflowClient(tracking_uri=uri())
    if copy:
        sys.stderr.write(f"MLflow: {place()} is of another version; it's {__version__}'s now, a copy is {copy}\n")
    note_version(__version__)
    return client


class Store:
    """Reads and writes our experiment's runs in MLflow; every method raises Unreachable if it's away."""

    def __init__(self) -> None:
        """Connects to the store; makes the experiment, and the database of the default store."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own patience is over four minutes
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of each table that it makes,
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # and of each run that ends
        from mlflow import MlflowClient, entities
        from mlflow.entities import Metric, Param, RunTag

        self.place, self.entities = place(), entities
        self.metric, self.param, self.tag = Metric, Param, RunTag
        folder = None
        if is_local():
            LOCAL.mkdir(exist_ok=True)
            folder = ARTIFACTS.resolve().as_uri()
        with reaching():
            rehome()
            self.client = open_database() if is_local() else MlflowClient(tracking_uri=uri())
            self.experiment = self.find_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT, folder)

    def find_experiment(self, name: str, folder: str | None) -> str:
        """Returns the id of an experiment, made if missing, with artifacts at a URI (None: where the server says).

        One that was deleted keeps its name in MLflow, where nothing can be added to it: it gets another name and stays
        deleted, and an empty one takes its place.
        """
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found and found.lifecycle_stage != "active":
            self.set_aside(found.experiment_id, name)
            found = None
        if found:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, folder, tags=TRAININGS))
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):  # another process was faster
                return str(found.experiment_id)
            raise

    def set_aside(self, experiment: str, name: str) -> None:
        """Renames a deleted experiment: MLflow renames active ones only, so it's active for a moment."""
        self.client.restore_experiment(experiment)
        self.client.rename_experiment(experiment, f"{name} (deleted, {experiment})")
        self.client.delete_experiment(experiment)
        sys.stderr.write(
            f"MLflow: the experiment {name} was deleted there and stays so, as {name} (deleted, {experiment}); "
            "a new one takes its place\n"
        )

    def gone(self, run_id: str) -> bool:
        """Tells whether a run was deleted, or its experiment: nothing can be logged to it any more."""
        from mlflow.exceptions import MlflowException

        with reaching():
            try:
                return bool(self.client.get_run(run_id).info.lifecycle_stage != "active")
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return True
                raise

    def search(self, **tags: str) -> list[Any]:
        """Returns runs that have all the tags (`__` in a name is a dot), newest first."""
        query = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in tags.items())
        with reaching():
            return list(self.client.search_runs([self.experiment], query, max_results=1000))

    def parent(self, launch: str, params: dict[str, Any]) -> str:
        """Returns the id of the run of a pipeline launch, made if missing, and running from now on."""
        found = self.search(diffalign__launch=launch)
        if not found:
            return self.pipeline(params, {LAUNCH: launch})
        run_id = str(found[0].info.run_id)
        with reaching():
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def pipeline(self, params: dict[str, Any], tags: dict[str, str]) -> str:
        """Makes a pipeline's run, named by what changed in params since the last one, and returns its id."""
        before = self.search(diffalign__kind="pipeline", diffalign__complete="true")
        name = naming.of_pipeline(naming.texts(params), before[0].data.params if before else None)
        return self.create(name, {KIND: "pipeline", **naming.source(None), **tags}, time.time())

    def child(self, parent: str, stage: str, params: dict[str, Any], started: float, **tags: str) -> str:
        """Makes a stage's run with its params and returns its id; `started` in seconds since the epoch.

        `params` has the sections that dvc.yaml gives the stage.
        """
        shown = naming.run_params(stage, params)
        before = self.search(diffalign__stage=stage, diffalign__complete="true")
        name = naming.of_stage(stage, naming.texts(shown), before[0].data.params if before else None)
        base, _, key = stage.partition("@")
        plain = {"step": base} | ({"policy": key} if base in ("train", "generate") else {})
        named = {key.replace("__", "."): value for key, value in tags.items()}
        tags = {PARENT: parent, STAGE: stage, **naming.source(stage), **plain, **named}
        run_id = self.create(name, tags, started)
        self.log_params(run_id, shown)
        return run_id

    def create(self, name: str, tags: dict[str, str], started: float) -> str:
        """Makes a run and returns its id; `started` in seconds since the epoch."""
        tags = {**tags, "diffalign.host": socket.gethostname()}
        with reaching():
            run = self.client.create_run(self.experiment, start_time=int(started * 1000), tags=tags, run_name=name)
        return str(run.info.run_id)

    def run(self, run_id: str) -> Any:
        """Returns a run."""
        with reaching():
            return self.client.get_run(run_id)

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Logs nested params under dotted names, a hundred at a time (MLflow's limit)."""
        entries = [self.param(key, value) for key, value in naming.texts(params).items()]
        with reaching():
            for first in range(0, len(entries), 100):
                self.client.log_batch(run_id, params=entries[first : first + 100])

    def log_points(self, run_id: str, points: list[artifacts.Point]) -> None:
        """Logs points, a thousand at a time (MLflow's limit)."""
        now = int(time.time() * 1000)
        entries = [self.metric(point.key, point.value, now, point.step) for point in points]
        with reaching():
            for first in range(0, len(entries), 1000):
                self.client.log_batch(run_id, metrics=entries[first : first + 1000])

    def log_outs(self, run_id: str, paths: list[str]) -> None:
        """Logs what is missing of the curves, figures and files in a stage's outs; again does no harm."""
        if found := artifacts.conventions(paths):
            self.log_params(run_id, {"conventions": found})
        self.log_missing(run_id, artifacts.shown(artifacts.points(paths)))
        self.log_files(run_id, artifacts.files(paths))

    def log_missing(self, run_id: str, points: list[artifacts.Point]) -> None:
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
        """Sets a run's description, Markdown that its page begins with; cut after a line where it's too long."""
        kept = text if len(text) <= NOTE else text[: text.rfind("\n", 0, NOTE) + 1]
        self.set_tags(run_id, {"mlflow.note.content": kept or text[:NOTE]})

    def close(self, run_id: str, status: str, ended: float | None = None) -> None:
        """Ends a run: FINISHED, FAILED or KILLED; `ended` in seconds since the epoch, now by default."""
        with reaching():
            self.client.set_terminated(run_id, status, int(ended * 1000) if ended else None)

    def settle(self, locked: dict[str, Any]) -> list[run_records.Record]:
        """Ends the runs of stages that were killed, and gives live runs the fingerprint that dvc.lock has by now.

        Returns the records of those that are still in MLflow.
        """
        found = []
        for record in run_records.read(place()):
            if run_records.running(record):
                found.append(record)
                continue
            if self.gone(record["run_id"]) or self.gone(record["parent_id"]):
                run_records.remove(record)
                continue
            found.append(record)
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
