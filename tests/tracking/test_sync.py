"""The mirror in MLflow: live while a stage runs, filled in from dvc.lock, the same however often it's done."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffalign.core.errors import UserError
from diffalign.tracking import (
    artifacts,
    dag,
    live,
    location,
    mlflow_store,
    pages,
    pictures,
    registry,
    run_records,
    summary,
    sync,
)
from tests.helpers.scratch import change, make, run

FIRST = {"ingest", "train@base", "train@dpo", "evaluate"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything has run once, without MLflow."""
    folder = make(tmp_path_factory.mktemp("tracking") / "project")
    run(folder, "-m", "dvc", "repro", DIFFALIGN_TRACKING="0")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, with an experiment of its own, and a mirror that doesn't wait."""
    folder = shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.delenv("DIFFALIGN_LAUNCH", raising=False)
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    monkeypatch.setattr(live, "INTERVAL", 0.05)
    return folder


def params() -> dict[str, Any]:
    """params.yaml in the working folder."""
    return dict(dag._yaml(Path("params.yaml")))


def rerun(stage: str = "train@dpo", steps: int = 5, status: str = "FINISHED") -> None:
    """What `pipeline.py stage train@dpo` does, in this process."""
    with sync.stage_run(stage, params()):
        time.sleep(0.1)
        curve = Path(f"runs/live/{stage}.jsonl")
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text("".join(json.dumps({"step": i, "loss": 1 / (i + 1)}) + "\n" for i in range(steps)))
        if status == "FAILED":
            raise ZeroDivisionError


def everything(store: mlflow_store.Store) -> list[Any]:
    """All that is in the experiment: runs, tags, params, points, artifacts."""
    found = []
    for entry in store.search():
        run_id, data = entry.info.run_id, entry.data
        history = [m for key in data.metrics for m in store.client.get_metric_history(run_id, key)]
        points = sorted((m.key, m.step, m.value) for m in history)
        files = [file.path for file in store.client.list_artifacts(run_id)]
        tags = {"end": entry.info.end_time} | {k: v for k, v in data.tags.items() if k.startswith("diffalign")}
        found.append((run_id, entry.info.run_name, entry.info.status, tags, data.params, points, files))
    return found


def named(store: mlflow_store.Store, name: str) -> list[Any]:
    """The runs of a stage, newest first."""
    return store.search(diffalign__stage=name)


def of(store: mlflow_store.Store, parent: Any, name: str) -> Any:
    """The one run of a stage under a pipeline's run."""
    (run,) = store.search(mlflow__parentRunId=parent.info.run_id, diffalign__stage=name)
    return run


def names_in(store: mlflow_store.Store, run: Any, folder: str) -> list[str]:
    """Names in an artifact folder."""
    return [entry.path.removeprefix(f"{folder}/") for entry in store.client.list_artifacts(run.info.run_id, folder)]


def test_what_came_from_the_cache_is_mirrored_once(project: Path) -> None:
    text = sync.sync()
    assert "4 of 4 stages" in text
    store = mlflow_store.Store()
    (parent,) = [run for run in store.search() if "diffalign.dag" in run.data.tags]
    link = f"http://127.0.0.1:5000/#/experiments/{store.experiment}/runs"
    view = "?workflowType=machine_learning"
    assert f"make ui, then {link}{view}" in text and f"{link}/{parent.info.run_id}{view}" in text
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "base, dpo")
    assert parent.data.params["policies.dpo.beta"] == "2000"
    assert names_in(store, parent, "report") == ["report.html"]
    page = parent.data.tags["mlflow.note.content"]
    assert "| dpo over base | oracle | 88.8% |" in page and "**Stages that ran:** [ingest](#/experiments/" in page
    children = store.search(mlflow__parentRunId=parent.info.run_id)
    assert {run.data.tags["diffalign.stage"] for run in children} == FIRST
    assert all(run.info.status == "FINISHED" for run in children)
    (train,) = named(store, "train@dpo")
    history = store.client.get_metric_history(train.info.run_id, "loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(i, 1 / (i + 1)) for i in range(40)]
    assert (train.info.run_name, train.data.params["beta"], train.data.params["lr"]) == ("dpo β 2000", "2000", "3e-05")
    assert names_in(store, train, "policy") == ["policy.json"]
    assert train.data.metrics["win_rate"] == 0.8875 and train.data.metrics["win_rate_low"] == 0.85
    assert train.data.metrics["accuracy"] == 0.66 and "implicit_accuracy" not in train.data.metrics
    assert (train.data.tags["policy"], train.data.tags["mlflow.source.name"]) == (
        "dpo", "python pipeline.py stage train@dpo",
    )  # fmt: skip
    (data,) = train.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.profile)) == ("raw", {"rows": 30})
    assert data.dataset.digest + ".dir" == dag.lock()["ingest"]["outs"][0]["md5"]
    model = store.client.get_logged_model(train.data.tags[registry.MODEL])
    assert (model.name, str(model.status), model.params["beta"]) == ("dpo", "READY", "2000")
    assert {(m.key, m.value, m.dataset_name) for m in model.metrics} == {
        ("win_rate", 0.8875, "raw"), ("win_rate_low", 0.85, "raw"), ("accuracy", 0.66, "raw"),
    }  # fmt: skip
    assert [m.model_id for m in train.outputs.model_outputs] == [model.model_id]
    assert train.data.tags["mlflow.note.content"].startswith("**winner_worse**, step 39: the policy denoises held-out")
    assert train.data.params["conventions.summed"] == "0.0625"
    assert train.data.params["conventions.lr_launched"] == "2.048e-05"
    (base,) = named(store, "train@base")
    assert "mlflow.note.content" not in base.data.tags and registry.MODEL not in base.data.tags
    (ingest,) = named(store, "ingest")
    assert not ingest.data.metrics and names_in(store, ingest, "metrics") == ["ingest.json"]

    before = everything(store)
    assert sync.sync() == f"MLflow is up to date: make ui, then {link}{view}"
    summary.SYNCED.unlink()  # the mark is for speed only
    assert "0 of 4 stages" in sync.sync()
    assert everything(store) == before


def test_the_reports_end_tells_all_and_another_report_replaces_it(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dag, "out_of_date", lambda stage: [])  # here the report is one of evaluate's outs
    with sync.stage_run("report", params()):
        Path("reports/report.html").write_text("first")
    assert "4 of 4 stages" in capsys.readouterr().err
    assert sync.sync().startswith("MLflow is up to date")
    with sync.stage_run("report", params()):
        Path("reports/report.html").write_text("second")
    store = mlflow_store.Store()
    (parent,) = [run for run in store.search() if "diffalign.dag" in run.data.tags]
    kept = store.client.download_artifacts(parent.info.run_id, "report/report.html")
    assert Path(kept).read_text() == "second" and len(store.search()) == 5


def test_probes_pictures_are_logged_by_step_and_once(project: Path) -> None:
    for step in (50, 100):
        path = Path(f"models/policies/dpo/probe/step-{step:06d}.png")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 8), (step, 0, 0)).save(path)
    sync.sync()
    store = mlflow_store.Store()
    (train,) = named(store, "train@dpo")
    assert pictures.steps(store, train.info.run_id) == {50, 100}
    before = names_in(store, train, "images")
    pictures.log_probes(store, train.info.run_id, path.parent)
    assert names_in(store, train, "images") == before and len(before) == 4, "each has a small one beside it"


def test_an_interrupted_mirror_is_completed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = mlflow_store.Store.log_files

    def fail(self: mlflow_store.Store, run_id: str, paths: list[tuple[Path, str]]) -> None:
        if any(target == "policy" for _, target in paths):
            raise mlflow_store.Unreachable("away")
        files(self, run_id, paths)

    monkeypatch.setattr(mlflow_store.Store, "log_files", fail)
    with pytest.raises(mlflow_store.Unreachable):
        sync.sync()
    monkeypatch.setattr(mlflow_store.Store, "log_files", files)
    sync.sync()
    store = mlflow_store.Store()
    assert len(named(store, "train@base")) == 1
    assert len(store.search()) == 5
    (train,) = named(store, "train@dpo")
    assert len(store.client.get_metric_history(train.info.run_id, "loss")) == 40


def test_a_stage_is_live_and_becomes_the_pipelines_child(project: Path) -> None:
    entry, store = dag.lock()["train@dpo"], mlflow_store.Store()
    with sync.stage_run("train@dpo", params()):
        curve = Path("runs/live/train@dpo.jsonl")
        time.sleep(0.1)
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text('{"step": 0, "loss": 0.7}\n{"step": 1, "lo')
        end = time.monotonic() + 60
        while not (runs := named(store, "train@dpo")) or "loss" not in runs[0].data.metrics:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert runs[0].info.status == "RUNNING"
        assert runs[0].data.params["steps"] == "150"
        parent = runs[0].data.tags["mlflow.parentRunId"]
        assert store.client.get_run(parent).info.status == "RUNNING"
        assert "train@dpo is running" in sync.sync()
        curve.write_text('{"step": 0, "loss": 0.7}\n{"step": 1, "loss": 0.6}\n')
    (child,) = named(store, "train@dpo")
    history = store.client.get_metric_history(child.info.run_id, "loss")
    assert [(m.step, m.value) for m in history][:2] == [(0, 0.7), (1, 0.6)]
    assert child.info.status == store.client.get_run(parent).info.status == "FINISHED"
    assert names_in(store, child, "policy") == ["policy.json"] and registry.MODEL in child.data.tags
    assert "diffalign.fingerprint" not in child.data.tags  # DVC hasn't written its entry yet

    sync.sync()
    (child,) = named(store, "train@dpo")
    assert child.data.tags["diffalign.fingerprint"] == dag.fingerprint(entry)
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert "diffalign.dag" in store.client.get_run(parent).data.tags
    assert {run.data.tags["diffalign.stage"] for run in store.search(mlflow__parentRunId=parent)} == FIRST


def test_an_edit_gives_a_second_pipeline_run_with_new_stages_only(project: Path) -> None:
    """It links to the first one's run of an unchanged stage, and doesn't take results that are of another policy."""
    sync.sync()
    change(project, "dpo", beta=3000)
    run(project, "-m", "dvc", "repro", "train@dpo", DIFFALIGN_TRACKING="0")
    assert "1 of 4 stages" in sync.sync()
    store = mlflow_store.Store()
    parents = [run for run in store.search() if "diffalign.dag" in run.data.tags]
    second, first = sorted(parents, key=lambda run: run.data.params["policies.dpo.beta"], reverse=True)
    assert second.info.run_name == "dpo beta 3000".replace("beta", "β")
    (new,) = store.search(mlflow__parentRunId=second.info.run_id)
    old, base = (of(store, first, name) for name in ("train@dpo", "train@base"))
    assert [run.info.run_name for run in (new, old)] == ["dpo β 3000", "dpo β 2000"]
    assert "win_rate" in old.data.metrics and "win_rate" not in new.data.metrics, "evaluate hasn't run since"
    page = second.data.tags["mlflow.note.content"]
    assert (
        "Not evaluated yet" in page and f"[train@base](#/experiments/{store.experiment}/runs/{base.info.run_id}" in page
    )
    # Back to the first state, out of DVC's run cache: it's there already.
    change(project, "dpo", beta=2000)
    run(project, "-m", "dvc", "repro", "train@dpo", DIFFALIGN_TRACKING="0")
    before = everything(store)
    assert "0 of 4 stages" in sync.sync()
    assert everything(store) == before
    assert first.info.run_id == json.loads(summary.SYNCED.read_text())["run"]


def test_a_live_run_of_other_params_isnt_taken_for_the_result(project: Path) -> None:
    change(project, "dpo", beta=3000)
    rerun()
    change(project, "dpo", beta=2000)  # and DVC restores what it was
    sync.sync()
    store = mlflow_store.Store()
    runs = {run.data.params["beta"]: run for run in named(store, "train@dpo")}
    assert runs["3000"].data.tags["mlflow.parentRunId"] != runs["2000"].data.tags["mlflow.parentRunId"]
    assert "diffalign.fingerprint" not in runs["3000"].data.tags
    assert runs["2000"].data.tags["diffalign.fingerprint"] == dag.fingerprint(dag.lock()["train@dpo"])


def test_a_failed_stage_and_a_killed_one(project: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        rerun(status="FAILED")
    store = mlflow_store.Store()
    (failed,) = named(store, "train@dpo")
    assert failed.info.status == "FAILED"
    assert {record["status"] for record in run_records.read(store.place)} == {"FAILED"}

    child = store.child(store.parent("some launch", {}), "train@base", {}, time.time())
    (record,) = run_records.read(store.place)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run_records.write(
        {
            **record,
            "stage": "train@base",
            "run_id": child,
            "status": "RUNNING",
            "closed": False,
            "pid": dead.pid,
            "created": 1.0,
        }
    )
    sync.sync()
    assert store.client.get_run(child).info.status == "KILLED"
    again = store.child(store.parent("some launch", {}), "train@base", {}, time.time())
    (killed,) = [r for r in run_records.read(store.place) if r["stage"] == "train@base"]
    run_records.write({**killed, "run_id": again, "status": "RUNNING", "closed": False})
    sync.sync()  # dvc.lock is what it was, and yet there is news
    assert store.client.get_run(again).info.status == "KILLED"


def test_alarms_are_explained_while_it_runs_and_in_a_run_that_they_stop(project: Path) -> None:
    store, stopped = mlflow_store.Store(), "training of dpo was stopped by an alarm"
    quiet = {"probe/winner_relative": 0.1, "probe/winner_relative_se": 0.1, "probe/loser_relative": 0.0}
    with pytest.raises(UserError), sync.stage_run("train@dpo", params()):
        time.sleep(0.1)
        curve = Path("runs/live/train@dpo.jsonl")
        curve.parent.mkdir(parents=True, exist_ok=True)
        probes = [{"step": 1, **quiet}, *({"step": n, **quiet, "probe/winner_relative": float(2 * n)} for n in (2, 3))]
        curve.write_text("".join(json.dumps(line) + "\n" for line in probes))
        end = time.monotonic() + 60
        while not (runs := named(store, "train@dpo")) or "mlflow.note.content" not in runs[0].data.tags:
            assert time.monotonic() < end
            time.sleep(0.05)
        said = runs[0].data.tags["mlflow.note.content"]
        assert said.startswith("**winner_worse**, steps 2 to 3: the policy denoises held-out winners worse")
        assert "by 583.55% at least" in said and runs[0].info.status == "RUNNING"
        raise UserError(stopped)
    (run,) = named(store, "train@dpo")
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.note.content"] == f"{stopped}\n\n{said}"


def test_no_credentials_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in (
        "postgresql://me:ab/cd@db/mlflow",
        "postgresql://db/mlflow?user=me&password=ab/cd",
        "https://me:ab%40cd@db/mlflow",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert location.place().endswith("://db/mlflow")


def test_a_short_stage_imports_no_mlflow(project: Path) -> None:
    done = run(project, "-X", "importtime", "pipeline.py", "stage", "ingest")
    assert "diffalign.tracking.sync" in done.stdout
    assert " mlflow" not in done.stdout


def test_nothing_new_imports_no_mlflow(project: Path) -> None:
    sync.sync()
    done = run(project, "-X", "importtime", "pipeline.py", "sync")
    assert "MLflow is up to date" in done.stdout
    assert " mlflow" not in done.stdout


def test_an_outage_warns_once_and_kills_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(live, "RETRY", 0.2)
    with sync.stage_run("train@dpo", params()):
        time.sleep(1.5)
    err = capfd.readouterr().err
    assert err.count("warning: MLflow at http://127.0.0.1:1 can't be used") == 1
    assert "pipeline.py sync" in err
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as error:
        sync.sync()
    assert "secret" not in err + str(error.value)


def test_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_TRACKING", "0")
    rerun()
    assert "switched off" in sync.sync()
    assert not run_records.FOLDER.exists()


def test_outs_that_are_gone(project: Path) -> None:
    shutil.rmtree("models/policies/dpo")
    with pytest.raises(UserError, match=r"models/policies/dpo.*dvc checkout"):
        sync.sync()


def test_the_default_is_an_absolute_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert location.uri() == f"sqlite:////{str(tmp_path)[1:]}/.mlflow/mlflow.db"
    assert pages.base() == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.com/mlflow/")
    assert pages.base() == "https://example.com/mlflow"
    assert pages.told(pages.base()) == "https://example.com/mlflow", "a server elsewhere isn't asked"


def test_a_launch_is_the_flows_or_the_dvc_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_LAUNCH", "prefect-1")
    assert run_records.launch() == "prefect-1"
    monkeypatch.delenv("DIFFALIGN_LAUNCH")
    assert run_records.launch() == run_records.launch()
    assert f"-{os.getpid()}-" in run_records.launch()


def test_tail_takes_whole_new_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    tail = live.Tail(path, 0)
    assert tail.read() == []
    path.write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "lo')
    assert tail.read() == tail.read() == [artifacts.Point("loss", 1.0, 5)]  # until it's accepted
    tail.accept()
    assert tail.read() == []
    path.write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n')
    assert tail.read() == [artifacts.Point("loss", 0.5, 10)]
    tail.accept()
    path.write_text('{"step": 5, "loss": 1.0}\n')  # a resumed run cut it back to its checkpoint
    assert tail.read() == []
    path.write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n{"step": 15, "loss": 0.4}\n')
    assert tail.read() == [artifacts.Point("loss", 0.4, 15)]


def test_tail_leaves_an_earlier_runs_curve_alone(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 5, "loss": 1.0}\n')
    os.utime(path, (1, 1))
    assert live.Tail(path, 2).read() == []


def test_points_are_finite_numbers() -> None:
    line = {"step": 3, "loss": 0.5, "text": "x", "flag": True, "none": None, "bad": float("nan")}
    assert artifacts.curve_points(json.dumps(line) + "\n") == [artifacts.Point("loss", 0.5, 3)]


def test_matching_needs_equal_params_code_and_inputs() -> None:
    entry = {
        "params": {"params.yaml": {"policies.dpo": {"beta": 2000, "lr": 3e-5}}},
        "deps": [
            {"path": path, "md5": md5}
            for path, md5 in {"data/shards": "a.dir", "diffalign/x.py": "b", "raw": "c"}.items()
        ],
    }
    record = {
        "params": {"policies": {"dpo": {"beta": 2000.0, "lr": 3e-5}, "sft": {}}},
        "known": {"data/shards": "a.dir", "diffalign/x.py": "b"},
    }
    assert run_records.matches(record, entry)
    assert not run_records.matches({**record, "params": {"policies": {"dpo": {"beta": 1.0, "lr": 3e-5}}}}, entry)
    assert not run_records.matches({**record, "params": {}}, entry)
    assert not run_records.matches({**record, "known": {"data/shards": "other.dir"}}, entry)


def test_flatten_and_lookup() -> None:
    values = {"policies": {"dpo": {"beta": 1, "raters": [1, 2]}}}
    assert dag.flatten(values) == {"policies.dpo.beta": 1, "policies.dpo.raters": [1, 2]}
    assert dag.lookup(values, ["policies.dpo", "nothing.here"]) == {"policies.dpo": {"beta": 1, "raters": [1, 2]}}


def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own MLflow, `.mlflow/`, not the tests'."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def edit_and_repro(beta: int) -> None:
    """An edit, and what follows from it."""
    change(Path.cwd(), "dpo", beta=beta)
    run(Path.cwd(), "-m", "dvc", "repro", "train@dpo", DIFFALIGN_TRACKING="0")


def test_a_moved_project_writes_its_artifacts_to_its_new_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_database(monkeypatch)
    sync.sync()
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    assert "0 of 4 stages" in sync.sync(), "nothing is new, but the database is told where it is"
    store = mlflow_store.Store()
    (old,) = named(store, "train@dpo")
    assert old.info.artifact_uri.startswith(f"file://{moved}/.mlflow/artifacts/")
    assert names_in(store, old, "policy") == ["policy.json"], "what was logged before is found"
    assert sync.sync().startswith("MLflow is up to date")
    edit_and_repro(3000)
    assert "of 4 stages" in sync.sync()
    assert not project.exists(), "nothing is written to the old place"
    assert len(named(store, "train@dpo")) == 2
    assert all(names_in(store, found, "policy") == ["policy.json"] for found in named(store, "train@dpo"))


def test_a_copied_project_leaves_the_first_one_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_database(monkeypatch)
    sync.sync()
    before = sorted(project.rglob(".mlflow/artifacts/**/*"))
    monkeypatch.chdir(shutil.copytree(project, project.with_name("copy")))
    edit_and_repro(3000)
    sync.sync()
    assert sorted(project.rglob(".mlflow/artifacts/**/*")) == before
    monkeypatch.chdir(project)
    assert sync.sync().startswith("MLflow is up to date")


def test_artifacts_that_the_user_keeps_elsewhere_stay_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_database(monkeypatch)
    sync.sync()
    client = mlflow_store.Store().client
    other = client.create_experiment("other", "file:///somewhere/else")
    project.rename(project.with_name("moved"))
    monkeypatch.chdir(project.with_name("moved"))
    location.rehome()
    assert client.get_experiment(other).artifact_location == "file:///somewhere/else"


def test_a_deleted_experiment_gives_way_to_a_new_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs stay deleted, under another name; tracking goes on, also where nothing new was made meanwhile."""
    own_database(monkeypatch)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "diffalign")
    rerun()
    sync.sync()
    store = mlflow_store.Store()
    store.client.delete_experiment(store.experiment)
    assert "4 of 4 stages" in sync.sync()
    assert "diffalign was deleted there and stays so" in capsys.readouterr().err
    new = mlflow_store.Store()
    assert new.experiment != store.experiment
    old = new.client.get_experiment(store.experiment)
    assert (old.name, old.lifecycle_stage) == (f"diffalign (deleted, {store.experiment})", "deleted")
    assert all(new.gone(entry.info.run_id) for entry in store.search()), "none of its runs is active"
    assert {entry.data.tags.get("diffalign.stage") for entry in new.search()} - {None} == FIRST
    new.client.delete_experiment(new.experiment)
    assert "4 of 4 stages" in sync.sync(), "a second time, too"


def test_a_run_that_was_deleted_while_its_stage_ran_is_shown_anew(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "RETRY", 0.2)
    store = mlflow_store.Store()
    with sync.stage_run("train@dpo", params()):
        curve = Path("runs/live/train@dpo.jsonl")
        time.sleep(0.1)
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text('{"step": 0, "loss": 0.7}\n')
        end = time.monotonic() + 60
        while not (runs := named(store, "train@dpo")) or "loss" not in runs[0].data.metrics:
            assert time.monotonic() < end
            time.sleep(0.05)
        store.client.delete_run(runs[0].info.run_id)
        curve.write_text('{"step": 0, "loss": 0.7}\n{"step": 1, "loss": 0.6}\n')
        while not (runs := named(store, "train@dpo")) or "loss" not in runs[0].data.metrics:
            assert time.monotonic() < end
            time.sleep(0.05)
    (run,) = named(store, "train@dpo")
    assert [m.value for m in store.client.get_metric_history(run.info.run_id, "loss")][:2] == [0.7, 0.6]
    said = capfd.readouterr().err
    assert "It answers, but refuses that. Was something deleted there meanwhile?" in said
    assert "correct MLFLOW_TRACKING_URI" not in said


def test_what_a_killed_stage_noted_of_a_deleted_run_is_forgotten(project: Path) -> None:
    rerun()
    store = mlflow_store.Store()
    (record,) = run_records.read(store.place)
    run_records.write({**record, "closed": False, "status": "RUNNING", "created": 1.0})
    store.client.delete_run(record["run_id"])
    assert "4 of 4 stages" in sync.sync()
    assert run_records.read(store.place) == []
