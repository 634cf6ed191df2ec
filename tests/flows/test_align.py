"""The DAG as a Prefect flow, against a real server: order, logs, the cache, retries, errors, cancellation."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffalign.core.errors import UserError
from diffalign.runtime import timings
from diffalign.tracking import dag
from flows import align, stage
from tests.helpers.pids import gone, pid_in
from tests.helpers.prefect_server import post, start, wait_until
from tests.helpers.scratch import environment, make, run

NEEDS = {
    "ingest": set(),
    "train@base": {"ingest"},
    "train@dpo": {"ingest"},
    "evaluate": {"train@base", "train@dpo"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing has run, whose failures are tried again at once."""
    folder = make(tmp_path_factory.mktemp("flow") / "project")
    source = folder / "flows/stage.py"
    text = source.read_text()
    assert "RETRY_DELAY = 10.0" in text
    source.write_text(text.replace("RETRY_DELAY = 10.0", "RETRY_DELAY = 0.1"))
    return folder


def flow(folder: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs the flow against the server."""
    settings = {"PREFECT_API_URL": start(), "DIFFALIGN_TRACKING": "0"} | changes
    return run(folder, "pipeline.py", "run", *options, ok=False, **settings)


def newest() -> dict[str, Any]:
    """The flow run that started last; deployments of other tests have runs that are only scheduled."""
    started = {"start_time": {"is_null_": False}}
    return dict(post("flow_runs/filter", flow_runs=started, sort="START_TIME_DESC", limit=1)[0])


def tasks(flow_run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its task runs by name."""
    found = post("task_runs/filter", task_runs={"flow_run_id": {"any_": [flow_run["id"]]}})
    return {task["name"]: task for task in found}


def artifacts(flow_run: dict[str, Any]) -> list[dict[str, Any]]:
    """Its artifacts, and its tasks', those that were made last at the end."""
    return list(post("artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}}, sort="CREATED_DESC"))[
        ::-1
    ]


def logged(task: dict[str, Any]) -> list[str]:
    """A task's log; it reaches the server a little later than the task ends."""
    query = {"task_run_id": {"any_": [task["id"]]}}
    return [line["message"] for line in post("logs/filter", logs=query, sort="TIMESTAMP_ASC")]


@pytest.mark.slow
def test_the_dag_runs_as_tasks_and_a_second_time_nothing_does(project: Path) -> None:
    done = flow(project)
    assert done.returncode == 0, done.stdout
    assert "dpo over base" in done.stdout
    first = newest()
    assert (first["state_type"], first["deployment_id"]) == ("COMPLETED", None)
    found = tasks(first)
    names = {task["id"]: name for name, task in found.items()}
    needs = {name: {names[i["id"]] for i in task["task_inputs"].get("wait_for", [])} for name, task in found.items()}
    assert needs == NEEDS
    starts = {name: task["start_time"] for name, task in found.items()}
    assert all(starts[need] < starts[name] for name, before in NEEDS.items() for need in before)
    log = wait_until(20, "the log", lambda: logged(found["ingest"]))
    assert "reading raw" in log
    assert first["name"] == "align: dpo · tiny-sd"
    assert {"dpo", "tiny-sd"} <= set(first["tags"])
    assert {"train", "dpo", "tiny-sd"} <= set(found["train@dpo"]["tags"])
    made = {artifact["key"]: artifact for artifact in artifacts(first)}
    assert "| dpo over base | oracle | 88.8% |" in made["summary"]["data"]
    (wins,) = json.loads(made["win-rates"]["data"])
    assert (wins["policy"], wins["win rate"], wins["interval"]) == ("dpo over base", "88.8%", "85.0–92.0%")
    assert [(row["stage"], row["what"]) for row in json.loads(made["stages"]["data"])] == [(n, "ran") for n in NEEDS]
    progress = made["progress-train-dpo"]
    assert (progress["type"], progress["data"]) == ("progress", 100)
    assert progress["description"] == "train@dpo: train dpo, 40 of 40 (5.0/s, ETA 0:00)"
    assert progress["task_run_id"] == found["train@dpo"]["id"]
    assert run(project, "-m", "dvc", "status").stdout.strip() == "Data and pipelines are up to date."

    done = flow(project)
    assert done.returncode == 0, done.stdout
    assert tasks(newest()) == {}
    assert "unchanged, 4 of 4 stages: ingest, train@base, train@dpo, evaluate" in done.stdout
    assert "Running stage" not in done.stdout
    assert '"cached": true' not in (project / timings.FILE).read_text()

    for name in ("dvc.lock", "data", "metrics", "models", "curves", "reports"):
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert flow(project).returncode == 0
    assert {task["state_name"] for task in tasks(newest()).values()} == {"Cached"}
    restored = [line for line in (project / timings.FILE).read_text().splitlines() if '"cached": true' in line]
    assert len(restored) == 4


@pytest.mark.slow
def test_only_failures_that_may_pass_are_tried_again(project: Path) -> None:
    train = project / "stages/train.py"
    good = train.read_text()
    train.write_text(
        good + "\nwork = run\n"
        "def run(params, policy):\n"
        "    from diffalign.core.errors import UserError\n"
        "    with open(f'runs/tries-{policy}', 'a') as file: file.write('x')\n"
        "    if policy == 'dpo': raise UserError('beta: expected rain, found sun. Wait.')\n"
        "    if len(Path('runs/tries-base').read_text()) < 2: raise RuntimeError('the device was lost')\n"
        "    work(params, policy)\n"
    )
    done = flow(project)
    train.write_text(good)
    assert done.returncode == 2, done.stdout
    assert (project / "runs/tries-base").read_text() == "xx"
    assert (project / "runs/tries-dpo").read_text() == "x"
    error = done.stdout[done.stdout.rindex("error: stage train@dpo: beta: expected rain, found sun. Wait.\n") :]
    assert "\nNot run, since they need it: evaluate." in error
    assert not re.search(r"Traceback|NoneType", done.stdout[done.stdout.index("beta: expected rain") :])
    last = newest()
    assert last["state_type"] == "FAILED"
    assert "train@dpo" in last["state"]["message"]
    states = {name: task["state_type"] for name, task in tasks(last).items()}
    states.pop("ingest", None)  # unchanged, unless this test runs alone
    assert states == {"train@base": "COMPLETED", "train@dpo": "FAILED", "evaluate": "PENDING"}


@pytest.mark.slow
def test_our_own_error_is_exit_code_1(project: Path) -> None:
    train = project / "stages/train.py"
    good = train.read_text()
    train.write_text(good + "\ndef run(params, policy):\n    1 / 0\n")
    done = flow(project, "--retries", "0")
    train.write_text(good)
    assert done.returncode == 1, done.stdout
    assert "  ZeroDivisionError: division by zero\n" in done.stdout
    assert "error: stage train@base ended with exit code 1" in done.stdout


def test_a_dag_that_cant_be_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    dvc = project / "dvc.yaml"
    good = dvc.read_text()
    dvc.write_text(good.replace("stages:", "stagse:"))
    with pytest.raises(UserError, match=r"`dvc dag` can't read the pipeline(.|\n)*stagse"):
        dag.graph()
    dvc.write_text(good)


def start_slow(project: Path, name: str) -> tuple["subprocess.Popen[bytes]", int]:
    """Starts a flow whose ingest sleeps; returns its process and the stage's id."""
    pid = project / "runs" / name
    ingest = project / "stages/ingest.py"
    ingest.write_text(
        "import os, time\nfrom pathlib import Path\n"
        f"def run(params):\n    Path('runs/{name}').write_text(str(os.getpid()))\n    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "pipeline.py", "run"],
        cwd=project,
        env=environment(PREFECT_API_URL=start(), DIFFALIGN_TRACKING="0"),
        stdout=subprocess.DEVNULL,
    )
    return process, pid_in(pid)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_stopped_flow_leaves_nothing_running(project: Path, number: signal.Signals) -> None:
    ingest = project / "stages/ingest.py"
    good = ingest.read_text()
    (project / "runs").mkdir(exist_ok=True)  # where nothing has run yet
    process, stage = start_slow(project, f"pid-{number}")
    os.kill(process.pid, number)
    assert process.wait(60) != 0
    assert gone(stage)
    ingest.write_text(good)
    assert flow(project).returncode == 0  # and the project isn't locked


@pytest.mark.slow
def test_a_temporary_server_is_enough(tmp_path: Path) -> None:
    folder = make(tmp_path / "project", policies=("base",))
    settings = {"DIFFALIGN_TRACKING": "0", "PREFECT_HOME": str(tmp_path / "prefect")}
    done = run(folder, "pipeline.py", "run", **settings)
    assert "Starting temporary server" in done.stdout
    assert "dpo over base" in done.stdout


def test_the_graph_is_dvcs_in_an_order_that_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    found = dag.graph()
    assert {name: set(needs) for name, needs in found.items()} == NEEDS
    done: set[str] = set()
    for name, needs in found.items():
        assert set(needs) <= done
        done.add(name)


def test_dot_is_read_as_dvc_writes_it() -> None:
    text = 'strict digraph {\n"b@x";\n"a";\n"a" -> "b@x";\n}\n'
    assert dag.parse_dot(text) == {"a": [], "b@x": ["a"]}


def test_the_code_of_a_failed_pipeline() -> None:
    user, ours = stage.StageFailed("a", 2, ["x"]), stage.StageFailed("b", 1, [])
    assert stage.PipelineFailed([user], []).code == 2
    stopped = stage.StageFailed("c", 75, [])
    assert stage.PipelineFailed([stopped, stopped], []).code == 75
    assert stage.PipelineFailed([stopped, user], []).code == 1
    assert stage.PipelineFailed([user, ours], []).code == 1
    assert stage.PipelineFailed([RuntimeError("x")], []).code == 1
    assert str(user) == "stage a ended with exit code 2: x"
    assert user.details == "stage a ended with exit code 2. Its last lines:\n  x"


GRAPH = {name: sorted(before) for name, before in NEEDS.items()}
OWNERS = {"train@base": "base", "train@dpo": "dpo"}


def walked(changed: set[str], policies: list[str] | None = None, same: str = "") -> align.Walk:
    """What is done with each stage where all that run make other outs, but for `same`."""
    walk = align.Walk(GRAPH, changed, align.others(OWNERS, policies))
    for name in GRAPH:
        if walk.is_due(name) and name != same:
            walk.moved.add(name)
    return walk


def test_what_runs() -> None:
    assert walked(set()).unchanged == list(GRAPH)
    assert walked({"train@dpo"}).due == ["train@dpo", "evaluate"]
    assert walked({"ingest"}).due == list(GRAPH)
    # Where the same comes out as before, what needs it isn't even asked for.
    assert walked({"ingest"}, same="ingest").due == ["ingest"]


def test_what_runs_for_some_policies() -> None:
    only = walked(set(GRAPH), ["dpo"])
    assert (only.due, only.left, only.unchanged) == (["ingest", "train@dpo"], ["train@base", "evaluate"], [])
    # A policy that is up to date stands in nobody's way.
    assert walked({"train@dpo"}, ["dpo"]).due == ["train@dpo", "evaluate"]
    with pytest.raises(UserError, match="expected some of base, dpo, got sft"):
        align.others(OWNERS, ["sft"])


def test_a_users_error_is_its_message_only() -> None:
    lines = ["> python pipeline.py stage a", "error: beta: expected 1,", "  found 2", "ERROR: failed to reproduce 'a'"]
    assert str(stage.StageFailed("a", 2, lines)) == "stage a: beta: expected 1,\n  found 2"
    assert str(stage.StageFailed("a", 75, lines)) == "stage a: beta: expected 1,\n  found 2", "an outage's, likewise"


def test_what_was_stopped_or_lacked_a_service_is_tried_again() -> None:
    state: Any = SimpleNamespace(result=lambda raise_on_failure: stage.StageFailed("a", 75, []))
    anything: Any = None
    assert stage.may_retry(anything, anything, state)
