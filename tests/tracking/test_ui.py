"""MLflow's pages start from nothing, beside a taken port, and on a database of an older MLflow."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.tracking import location, mlflow_store, pages, ui


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the project's own MLflow, which isn't there yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DIFFALIGN_MLFLOW_UI", "")  # as unset; what the pages set is taken back


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which something listens, in the place of MLflow's usual one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(pages, "PORT", port)
        yield port


def test_a_taken_port_is_said_and_another_one_found(taken: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.free_port(None) > taken
    assert f"Port {taken} is in use" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"Port {taken} is in use.*--port"):
        ui.free_port(taken)


def test_what_listens_but_isnt_mlflow_isnt_linked_to(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(pages, "PATIENCE", 0.1)
    assert pages.told(f"http://127.0.0.1:{taken}/#/x") == f"make ui, then http://127.0.0.1:{taken}/#/x"


def test_it_starts_without_any_run_and_when_mirroring_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[int] = []
    monkeypatch.setattr(ui, "serve", served.append)
    ui.run(None)
    said = capsys.readouterr()
    assert "Nothing to bring to MLflow yet" in said.out and "?workflowType=machine_learning" in said.out
    assert location.DATABASE.exists() and len(served) == 1

    def fails() -> str:
        raise UserError("outs aren't on disk")

    monkeypatch.setattr(ui, "sync", fails)
    ui.run(None)
    assert "warning: MLflow isn't up to date: outs aren't on disk" in capsys.readouterr().err and len(served) == 2


@pytest.mark.slow
def test_an_older_database_is_migrated_after_a_copy_and_a_newer_one_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The older one is MLflow's own first tables and its migrations up to the last but one."""
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    location.LOCAL.mkdir()
    engine = sqlalchemy.create_engine(location.uri())
    Base.metadata.create_all(engine)
    config = _get_alembic_config(location.uri())
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, str(script.get_revision(head).down_revision))
    engine.dispose()
    assert mlflow_store.Store().search() == []
    with closing(sqlite3.connect(location.DATABASE)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(head,)]
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffffe'")
        database.commit()
    said = capsys.readouterr().err
    copies = list(location.LOCAL.glob("mlflow.db.*"))
    assert copies == [location.LOCAL / "mlflow.db.old"] and str(copies[0]) in said
    code = "from diffalign.tracking.mlflow_store import Store; Store()"  # a process of its own: MLflow keeps stores
    path = {"PYTHONPATH": str(Path(mlflow_store.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **path}, capture_output=True, text=True)
    assert "a newer one perhaps" in done.stderr
