"""Scheduled deployments on a real server: a plain install's versions pass every flow, and never fire a schedule."""

import importlib.metadata
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from diffalign.core.errors import UserError
from diffalign.runtime.processes import end_group
from flows import deployments, serving
from tests.helpers.prefect_server import free_port, post, prefect, start, wait_until
from tests.helpers.scratch import environment, make, run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing has run, whose deployment is due every minute; deployed as the README says."""
    folder = make(tmp_path_factory.mktemp("deployments") / "project")
    path = folder / "prefect.yaml"
    config = yaml.safe_load(path.read_text())
    config["deployments"][0]["schedules"][0]["cron"] = "* * * * *"
    path.write_text(yaml.safe_dump(config))
    prefect(folder, "work-pool", "create", "--type", "process", "--overwrite", "local")
    prefect(folder, "deploy", "--all")
    return folder


def deployment() -> dict[str, Any]:
    """The deployment as the server has it."""
    (found,) = post("deployments/filter", deployments={"name": {"any_": ["nightly"]}})
    return dict(found)


def schedule() -> str:
    """The id of its schedule."""
    return str(deployment()["schedules"][0]["id"])


def runs(**states: list[str]) -> list[dict[str, Any]]:
    """Its flow runs in some states, by when they were due."""
    wanted = {"deployment_id": {"any_": [deployment()["id"]]}, "state": {"type": {"any_": states["types"]}}}
    return list(post("flow_runs/filter", flow_runs=wanted, sort="EXPECTED_START_TIME_ASC"))


def test_the_versions_that_schedule() -> None:
    assert Version(importlib.metadata.version("fastapi")) < Version("0.151")
    assert Version(importlib.metadata.version("sqlalchemy")) < Version("2.1")


@pytest.mark.slow
def test_a_cron_deployment_is_scheduled(project: Path) -> None:
    found = wait_until(120, "scheduled runs", lambda: runs(types=["SCHEDULED"]))
    assert len({run["expected_start_time"] for run in found}) == len(found)
    assert found[0]["auto_scheduled"]
    (schedule,) = deployment()["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("* * * * *", True)
    assert deployment()["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment()["global_concurrency_limit"]["limit"] == 1
    assert deployment()["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}
    ]


def test_what_is_served_is_what_is_deployed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    entries = yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
    made = deployments.make(Path("prefect.yaml"))
    flows = {"nightly": ("align", True), "votes": ("collect", False), "rounds": ("round", False)}
    assert {one.name: (one.flow_name, one.schedules[0].active) for one in made if one.schedules} == flows
    for entry, served in zip(entries, made, strict=True):
        assert (served.name, served.parameters) == (entry["name"], entry.get("parameters", {}))
        (schedule,) = served.schedules or []
        assert getattr(schedule.schedule, "cron", None) == entry["schedules"][0]["cron"]
        assert served.concurrency_options is not None
        assert served.concurrency_options.collision_strategy == entry["concurrency_limit"]["collision_strategy"]


def test_serving_where_a_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(start().split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=rf"Port {port} is in use.*PREFECT_API_URL"), serving.server(port):
        pass


@pytest.mark.slow
def test_a_deployment_for_a_docker_pool(project: Path, repo: Path) -> None:
    """By the commands at the head of its file; no container is started."""
    shutil.copytree(repo / "docker", project / "docker")
    prefect(project, "work-pool", "create", "--type", "docker", "--overwrite", "docker")
    prefect(project, "deploy", "--prefect-file", "docker/prefect.yaml", "--all")
    (made,) = post("deployments/filter", deployments={"name": {"any_": ["container"]}})
    assert (made["work_pool_name"], made["entrypoint"]) == ("docker", "flows/align.py:align")
    assert made["job_variables"]["volumes"] == [f"{project}:/work"]
    assert made["job_variables"]["env"] == {"PREFECT_API_URL": start()}
    assert made["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "/work"}}]


@pytest.mark.nightly
def test_a_worker_takes_a_scheduled_run_to_the_end(project: Path) -> None:
    ingest = project / "stages/ingest.py"
    ingest.write_text(ingest.read_text() + "    while not Path('runs/go').exists(): time.sleep(0.2)\n")
    port = str(free_port())
    settings = {"PREFECT_API_URL": start(), "DIFFALIGN_TRACKING": "0", "PREFECT_WORKER_WEBSERVER_PORT": port}
    settings |= {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--with-healthcheck"]
    worker = subprocess.Popen(command, cwd=project, env=environment(**settings), start_new_session=True)
    try:
        wait_until(180, "a run", lambda: runs(types=["RUNNING"]))
        wait_until(180, "the next one's cancellation", lambda: runs(types=["CANCELLED"]))
        prefect(project, "deployment", "schedule", "pause", "align/nightly", schedule())  # or the next run begins
        (project / "runs").mkdir(exist_ok=True)
        (project / "runs/go").touch()
        first = wait_until(180, "its end", lambda: runs(types=["COMPLETED", "FAILED", "CRASHED"]))[0]
        assert first["state_type"] == "COMPLETED"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
    finally:
        end_group(worker)
    assert run(project, "-m", "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert "Running stage" not in run(project, "-m", "dvc", "repro").stdout


@pytest.mark.slow
def test_serve_needs_no_server_and_leaves_none(project: Path, tmp_path: Path) -> None:
    port = free_port()
    settings = {"PREFECT_HOME": str(tmp_path / "prefect"), "DIFFALIGN_TRACKING": "0"}
    log = tmp_path / "log"
    (project / "runs").mkdir(exist_ok=True)
    (project / "runs/go").touch()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "pipeline.py", "serve", "--port", str(port)],
            cwd=project,
            env=environment(**settings),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = re.compile("Flow run .*Finished in state Completed")
        wait_until(300, "a scheduled run's end", lambda: end.search(log.read_text()))
        process.send_signal(signal.SIGINT)
        assert process.wait(90) is not None
    finally:
        end_group(process)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2)


BROKEN = {
    ("deployments.0.schedules.0.cron", "0 25 * * *"): "schedules.0.cron: expected minute, hour, .* got '0 25",
    ("deployments.0.schedules.0.cron", "nightly"): "schedules.0.cron: expected minute, hour, .* got 'nightly'",
    ("deployments.0.schedules.0.timezone", "Mars/X"): "timezone: expected a time zone's name, .* got 'Mars/X'",
    ("deployments.0.schedules.0.timezone", "../x"): "timezone: expected a time zone's name, .* got '../x'",
    ("deployments.0.name", None): "deployments.0.name: .* got None",
    ("deployments.0.concurrency_limit.collision_strategy", "WAIT"): "collision_strategy: .* got 'WAIT'",
    (
        "deployments.0.entrypoint",
        "flows/align.py:aline",
    ): r"entrypoint: expected FILE:FLOW .* got 'flows/align\.py:aline'",
    (
        "deployments.0.entrypoint",
        "flows/nope.py:align",
    ): r"entrypoint: expected FILE:FLOW .* got 'flows/nope\.py:align'",
}


@pytest.mark.parametrize(("place", "value"), BROKEN)
def test_a_broken_prefect_yaml_is_a_users_error(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, value: object
) -> None:
    monkeypatch.chdir(repo)
    content = yaml.safe_load(Path("prefect.yaml").read_text())
    *above, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    entry = content
    for part in above:
        entry = entry[part]
    entry[last] = value
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=f"(?s)prefect.yaml.*{BROKEN[place, value]}"):
        deployments.make(path)


@pytest.mark.parametrize(
    ("text", "found"), [("deployments: [", "line 1: while parsing"), ("x: 1", "deployments: missing")]
)
def test_a_prefect_yaml_that_isnt_one(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=found):
        deployments.make(path)
    with pytest.raises(UserError, match=r"none\.yaml is missing"):
        deployments.make(tmp_path / "none.yaml")


@pytest.mark.parametrize("command", ["run", "serve"])
def test_prefect_that_cant_be_reached_is_one_message(tmp_path: Path, command: str) -> None:
    folder = make(tmp_path / "project")
    url = f"http://me:secret@127.0.0.1:{free_port()}/api"
    done = run(folder, "pipeline.py", command, ok=False, PREFECT_API_URL=url)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout and "secret" not in done.stdout
    assert re.search(
        r"^error: Prefect's API at http://127\.0\.0\.1:\d+/api can't be reached: .*PREFECT_API_URL", done.stdout
    )
