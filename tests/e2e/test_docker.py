"""What the container files promise. No engine is needed."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def tool(name: str) -> str:
    """A linter, beside this Python or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} isn't installed: make test installs it"
    return found


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", str(DOCKER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_compose_files_fit_composes_schema() -> None:
    files = [str(path) for path in sorted(DOCKER.glob("compose*.yaml"))]
    assert len(files) == 3
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_isnt_root_and_takes_the_pinned_versions() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert users == ["${USER_ID}"]
    assert re.search(r"^ARG USER_ID=[1-9]\d*$", text, re.MULTILINE)
    installs = re.findall(r"uv pip install .*", text)
    assert len(installs) == 1
    assert all("-c constraints.txt" in install for install in installs)


@pytest.mark.parametrize(("device", "user"), [("cpu", "1000"), ("cuda", "1000"), ("cpu", "0")])
def test_the_images_shell_lines_run(tmp_path: Path, device: str, user: str) -> None:
    """With commands that only note what they were told: bash sets UID itself, and a host's files may be root's."""
    for name in ("apt-get", "rm", "useradd", "mkdir", "chown", "pip", "uv"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $UV_TORCH_BACKEND $*"\n')
        (tmp_path / name).chmod(0o755)
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    said = ""
    for lines in re.findall(r"^RUN ((?:.*\\\n)*.*)$", text, re.MULTILINE):
        shell = ["/bin/bash", "-o", "pipefail", "-euc", lines]
        environment = {"PATH": str(tmp_path), "DEVICE": device, "USER_ID": user}
        done = subprocess.run(shell, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert ("gcc libc6-dev" in said) == (device == "cuda")
    assert (f"useradd  --uid {user} " in said) == (user != "0")
    assert f"chown  {user} /work /state" in said
    assert ("uv cpu pip install" in said) == (device == "cpu")


def test_the_store_has_the_shells_keys_only_and_the_worker_has_them() -> None:
    services = yaml.safe_load((DOCKER / "compose.s3.yaml").read_text())["services"]
    store, worker = services["s3"]["environment"], services["worker"]["environment"]
    for name, ours in (("ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"), ("ROOT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY")):
        assert store[name].startswith(f"${{{ours}:?")  # nothing starts without
        assert worker[ours] == f"${{{ours}}}"
    assert worker["AWS_ENDPOINT_URL"] == f"http://s3{store['VGW_PORT']}"
    assert services["s3"]["ports"][0].startswith("127.0.0.1:")
    assert services["s3"]["cap_drop"] == ["ALL"]


def test_what_the_image_copies_isnt_ignored(repo: Path) -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    rules = (repo / ".dockerignore").read_text().split()
    assert "*" in rules
    for name in copied[0].split():
        assert (repo / name).is_file()
        assert f"!{name}" in rules


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_reachable_from_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "network_mode" not in service and "privileged" not in service
    assert service["cap_drop"] == ["ALL"]
    assert "healthcheck" in service


def test_there_are_no_passwords() -> None:
    text = (DOCKER / "compose.yaml").read_text() + (DOCKER / "Dockerfile").read_text()
    assert not re.search(r"(?i)(password|secret|token)\s*[:=]", text)


def test_the_parts_find_each_other() -> None:
    worker = SERVICES["worker"]["environment"]
    assert worker["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert worker["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert set(SERVICES["worker"]["depends_on"]) == {"prefect", "mlflow"}
    # The pages are the browser's: they need the published addresses.
    published = SERVICES["prefect"]["ports"][0].rpartition(":")[0]
    assert SERVICES["prefect"]["environment"]["PREFECT_SERVER_UI_API_URL"] == f"http://{published}/api"
    assert worker["DIFFALIGN_MLFLOW_UI"] == f"http://{SERVICES['mlflow']['ports'][0].rpartition(':')[0]}"
    hosts = next(word for word in SERVICES["mlflow"]["command"] if word.startswith("--allowed-hosts="))
    assert "mlflow:5000" in hosts


def test_named_volumes_are_declared_and_used() -> None:
    mounts = [volume.partition(":")[0] for service in SERVICES.values() for volume in service["volumes"]]
    assert {mount for mount in mounts if mount[0] not in "./"} == set(COMPOSE["volumes"])


def test_the_workers_pool_is_the_deployments(repo: Path) -> None:
    deployments = yaml.safe_load((repo / "prefect.yaml").read_text())["deployments"]
    script = SERVICES["worker"]["command"][-1]
    assert all(f"--pool {entry['work_pool']['name']} " in script for entry in deployments)


def test_prefects_settings_are_read(repo: Path) -> None:
    settings = tomllib.loads((repo / "prefect.toml").read_text())
    code = (
        "from prefect.settings import get_current_settings as s; c = s(); "
        "print(c.home, c.server.ephemeral.startup_timeout_seconds, c.server.analytics_enabled)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, env=environment, capture_output=True, text=True)
    timeout = settings["server"]["ephemeral"]["startup_timeout_seconds"]
    assert done.stdout.split() == [settings["home"], str(timeout), "False"], done.stderr
