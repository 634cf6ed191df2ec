"""The DIFFALIGN_* variables: all read alike, odd values and unknown names refused."""

import re
from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.runtime import switches
from diffalign.tracking import sync

FLAGS = [name for name, kind in switches.SWITCHES.items() if kind is switches.FLAG]


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_read_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0", "off", "OFF", "false", "False", "no", " 0 "):
        monkeypatch.setenv(name, text)
        assert switches.read(name) is False
    for text in ("1", "on", "true", "TRUE", "yes"):
        monkeypatch.setenv(name, text)
        assert switches.read(name) is True
    for text in ("", "  "):
        monkeypatch.setenv(name, text)
        assert switches.read(name) is None
    for text in ("2", "none", "disabled", "o"):
        monkeypatch.setenv(name, text)
        with pytest.raises(UserError, match=f"{name}: expected one of 1, on, true, yes or .*got '{text}'"):
            switches.read(name)


def test_tracking_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, off in (("off", True), ("0", True), ("1", False), ("", False)):
        monkeypatch.setenv("DIFFALIGN_TRACKING", text)
        assert sync.off() is off


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DIFFALIGN_DEVICE", "CPU", "cpu"),
        ("DIFFALIGN_PROCESSES", "3", 3),
        ("DIFFALIGN_PRECISION", "bf16", "bf16"),
        ("DIFFALIGN_LAUNCHER", "external", "external"),
        ("DIFFALIGN_MLFLOW_UI", "https://mlflow.example", "https://mlflow.example"),
    ],
)
def test_values(name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    assert switches.read(name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("DIFFALIGN_DEVICE", "tpu", "cpu or cuda"),
        ("DIFFALIGN_PROCESSES", "0", "a whole number from 1"),
        ("DIFFALIGN_PROCESSES", "-1", "a whole number from 1"),
        ("DIFFALIGN_PROCESSES", "two", "a whole number from 1"),
        ("DIFFALIGN_PRECISION", "fp16", "fp32 or bf16"),
        ("DIFFALIGN_PARALLEL", "zero", "ddp or fsdp"),
        ("DIFFALIGN_LAUNCHER", "1", "own or external"),
        ("DIFFALIGN_MLFLOW_UI", "mlflow.example", "an http:// or https:// address"),
    ],
)
def test_odd_values_are_refused(name: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=re.escape(f"{name}: expected {expected}, got {text!r}")):
        switches.check()


def test_a_misspelt_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    switches.check()
    monkeypatch.setenv("DIFFALIGN_TRACKNG", "0")
    with pytest.raises(UserError, match=r"DIFFALIGN_TRACKNG in the environment: expected one of .*DIFFALIGN_TRACKING"):
        switches.check()


def test_no_other_function_reads_them(repo: Path) -> None:
    """Names of switches are given to `read` only: none is looked up in the environment elsewhere."""
    folders = [repo / name for name in ("diffalign", "flows", "stages", "studies")]
    files = [repo / "pipeline.py", *(path for folder in folders for path in folder.rglob("*.py"))]
    found = [
        f"{path.name}: {line.strip()}"
        for path in files
        for line in path.read_text().splitlines()
        if re.search(r"(environ(\.get)?|getenv)[(\[]\s*[\"']DIFFALIGN_", line)
    ]
    assert not found
