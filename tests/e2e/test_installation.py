"""What is installed: the versions that were tested together, nothing that phones home, and schedules that fire."""

import ast
import configparser
import importlib.metadata
import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import pipeline

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> list[Requirement]:
    """The constraints on a distribution; several where versions of Python differ."""
    return [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(name)]


def test_one_constraint_serves_cpu_and_cuda() -> None:
    (torch,) = pins("torch")
    assert torch.specifier.contains("2.13.0") and torch.specifier.contains("2.13.0+cpu")
    assert torch.specifier.contains("2.13.0+cu130")
    assert all(pin.marker for pin in PINS if pin.name.startswith("nvidia-") and pin.name != "nvidia-ml-py")


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
def test_what_is_asked_for_is_pinned_within_its_bounds(text: str) -> None:
    requirement = Requirement(text)
    found = pins(requirement.name)
    assert found
    for pin in found:
        (version,) = [spec.version for spec in pin.specifier]
        assert requirement.specifier.contains(version)


def test_what_a_plain_install_gets_wrong_is_bounded() -> None:
    bounds = {Requirement(line).name: Requirement(line).specifier for line in PROJECT["dependencies"]}
    assert not bounds["fastapi"].contains("0.155.0")  # Prefect's flows die
    assert not bounds["sqlalchemy"].contains("2.1.0")  # Prefect's schedules never fire


def test_the_environment_is_the_tested_one() -> None:
    """Every installed distribution that has a pin has that version; a local build (+cpu) of it counts."""
    off = []
    for distribution in importlib.metadata.distributions():
        found = [pin for pin in pins(distribution.name) if pin.marker is None or pin.marker.evaluate()]
        if found and not any(pin.specifier.contains(Version(distribution.version).public) for pin in found):
            off.append(f"{distribution.name} {distribution.version}, expected {found[0]}")
    assert not off


def test_what_is_imported_is_asked_for() -> None:
    """Every third-party package that the code imports is asked for by itself, an extra counts, not by another."""
    folders = ("arena", "diffalign", "flows", "stages", "studies")
    sources = [ROOT / "pipeline.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.split(".")[0] for name in names} - {*folders} - sys.stdlib_module_names
    owners = importlib.metadata.packages_distributions()
    lines = [*PROJECT["dependencies"], *EXTRAS["8bit"], *EXTRAS["judges"], *EXTRAS["tensorboard"]]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    found = {name: {canonicalize_name(owner) for owner in owners.get(name, [name])} for name in packages}
    assert not {name for name in packages if not asked & found[name]}


def test_torchvision_is_neither_asked_for_nor_there() -> None:
    texts = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    assert "torchvision" not in {Requirement(text).name for text in texts}
    assert not pins("torchvision")
    assert importlib.util.find_spec("torchvision") is None


def test_telemetry_is_off_by_default() -> None:
    assert (
        pipeline.ENVIRONMENT.items()
        >= {
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }.items()
    )
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    core = {key.strip(): value for key, value in config["core"].items()}
    assert (core["analytics"], core["check_update"]) == ("false", "false")  # for `dvc` called by hand


def test_tests_reach_nothing_beyond_this_machine() -> None:
    with socket.socket() as connection, pytest.raises(PermissionError, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))
    with pytest.raises(PermissionError, match="example"):
        socket.getaddrinfo("example.org", 80)


def test_make_clean_keeps_what_git_has(tmp_path: Path) -> None:
    """Of the folders that it empties, two in metrics/ are in git: without rewards no stage makes them."""
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in kept:
        if name.split("/")[0] in ("Makefile", "metrics", "data", "models", "curves", "images", "reports", "assets"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    made = [tmp_path / name for name in ("metrics/evaluate.json", "metrics/scores/oracle.json", "images/dpo/1.png")]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    assert not any(path.exists() for path in made)
    missing = [name for name in kept if (ROOT / name).exists() and name.startswith("metrics/")]
    assert missing and all((tmp_path / name).exists() for name in missing)


def test_no_path_of_a_machine_is_in_the_environment_files() -> None:
    names = ["Makefile", "constraints.txt", "pyproject.toml", ".ci/run", ".pre-commit-config.yaml"]
    for name in [*names, "README.md", "CONTRIBUTING.md"]:
        text = (ROOT / name).read_text()
        assert not re.search(r"(?<![\w.])/(root|home|opt|work|mnt)/|file://|find-links\s*=", text), name
