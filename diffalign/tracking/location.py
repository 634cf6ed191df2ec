"""Finds MLflow: at the address that is set, else in this project, `.mlflow/`: SQLite and a folder of artifacts.

The database names its artifacts' folders by absolute paths. In a project that was moved or copied they would lead to
the old place, so `rehome` corrects them.
"""

import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from diffalign.core.files import write_text

LOCAL = Path(".mlflow")
ARTIFACTS = LOCAL / "artifacts"
DATABASE = LOCAL / "mlflow.db"
VERSION = LOCAL / "version"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Tables of MLflow's database, each with its column of addresses in the artifacts' folder."""


def is_local() -> bool:
    """Tells whether MLflow is the project's own."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def uri() -> str:
    """Returns MLflow's address: `MLFLOW_TRACKING_URI`, or SQLite in this folder as an absolute path."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE.resolve()}"


def shown(address: str) -> str:
    """Returns an address without a name, a password and a query, which may hold them too."""
    return re.sub("//[^@]*@", "//", address.partition("?")[0])


def place() -> str:
    """Returns MLflow's address as it is shown and noted: without credentials; the project's own one is relative.

    So what was noted in a project holds after the project was moved.
    """
    return DATABASE.as_posix() if is_local() else shown(uri())


def rehome() -> None:
    """Makes the project's own database name artifacts in this folder, where it names them in the project's old one.

    Addresses elsewhere (an object store) stay. Does nothing without a database, or for MLflow elsewhere.
    """
    here = ARTIFACTS.resolve().as_uri()
    if not is_local() or not DATABASE.exists():
        return
    with closing(sqlite3.connect(DATABASE, timeout=60)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return
        found = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for old in {old for (old,) in found if _is_ours(old) and old != here}:
            for table, column in [pair for pair in COLUMNS if pair[0] in tables]:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def _is_ours(address: str | None) -> bool:
    return bool(address) and str(address).startswith("file:") and str(address).endswith(f"/{ARTIFACTS.as_posix()}")


def noted_version() -> str:
    """Returns the version of MLflow that opened the project's own database last; "" where none is noted."""
    return VERSION.read_text() if VERSION.exists() else ""


def note_version(version: str) -> None:
    """Notes the version of MLflow that opened the project's own database."""
    if noted_version() != version:
        write_text(VERSION, version)


def back_up() -> Path:
    """Copies the project's own database beside it, by the version that it is of, and returns the copy's path."""
    copy = DATABASE.with_name(f"{DATABASE.name}.{noted_version() or 'old'}")
    shutil.copy2(DATABASE, copy)
    return copy


def is_active(experiment: str) -> bool:
    """Tells whether the project's own database has an experiment that wasn't deleted, without importing MLflow."""
    if not DATABASE.exists():
        return False
    query = "SELECT lifecycle_stage FROM experiments WHERE experiment_id = ?"
    with closing(sqlite3.connect(DATABASE, timeout=60)) as database, suppress(sqlite3.Error):
        return bool(database.execute(query, (experiment,)).fetchall() == [("active",)])
    return False
