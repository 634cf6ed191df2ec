"""Damaged files that MLflow's mirror, the summary, fetch and the study read: one message that names it and helps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffalign.core.errors import UserError
from diffalign.data.hub import fetch
from diffalign.runtime import timings
from diffalign.tracking import artifacts, registry, run_records, summary
from studies import run as study
from tests.helpers import evaluations

RECORD = dict.fromkeys(run_records.KEYS, "x")
READERS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "runs/tracking/synced.json": (summary.synced, {"link": "x", "path": "x"}, "pipeline.py sync"),
    "runs/tracking/stage-train@dpo.json": (lambda: run_records.read("x"), RECORD, "pipeline.py sync"),
    "metrics/ingest.json": (registry.profile, None, "dvc stage list"),
    "metrics/evaluate.json": (
        summary.outcomes,
        evaluations.evaluation(),
        "--single-item evaluate`",
    ),
    "curves/dpo.jsonl": (lambda: artifacts.points(["curves/dpo.jsonl"]), {"step": 1}, "--single-item train@dpo`"),
    "models/policies/dpo/policy.json": (
        lambda: artifacts.conventions(["models/policies/dpo"]),
        None,
        "--single-item train@dpo`",
    ),
    "images/dpo/manifest.json": (
        lambda: artifacts.files(["images/dpo"]),
        {"images": []},
        "--single-item generate@dpo`",
    ),
    "data/raw/fetched.json": (fetch.read_lock, {"sd15": {"files": {}}}, "from a backup, or remove it"),
    "done/train@dpo.json": (
        lambda: study.once("train@dpo", "x", lambda: None),
        {"key": "x", "seconds": 1},
        "pipeline.py study",
    ),
}
"""Each file with what reads it, a sound one with all that it must have (None: any object), and what is advised."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", [b'{"key": 1, "li', b"[1, 2]\n", b'{"a": "\xff"}', b"\n"])
def test_a_damaged_file_is_named_with_what_helps(name: str, data: bytes) -> None:
    read, _, remedy = READERS[name]
    path = fetch.LOCK if name == "data/raw/fetched.json" else Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read()
    assert str(path) in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize("name", [name for name, (_, sound, _) in READERS.items() if sound])
def test_a_missing_key_is_named_with_what_helps(name: str) -> None:
    read, sound, remedy = READERS[name]
    path = fetch.LOCK if name == "data/raw/fetched.json" else Path(name)
    write(path, json.dumps(sound) + "\n")
    read()
    for key in sound:
        less = {"sd15": {}} if key == "sd15" else {k: v for k, v in sound.items() if k != key}
        write(path, json.dumps(less) + "\n")
        with pytest.raises(UserError) as error:
            read()
        missing = "files" if key == "sd15" else key
        assert str(path) in str(error.value) and missing in str(error.value) and remedy in str(error.value)


def test_what_stands_in_them_must_be_of_its_kind() -> None:
    write(Path("models/policies/dpo/policy.json"), '{"conventions": ["x"]}')
    with pytest.raises(UserError, match=r"policy\.json .*conventions"):
        artifacts.conventions(["models/policies/dpo"])
    write(Path("images/dpo/manifest.json"), '{"images": [{"prompt": "x"}]}')
    with pytest.raises(UserError, match=r"manifest\.json .*images\.0\.file"):
        artifacts.files(["images/dpo"])


def test_damaged_lines_of_the_wall_times_are_passed_over() -> None:
    """They are for the summary only; what is sound in them is shown."""
    timings.record("ingest", 1.5)
    with open(timings.FILE, "ab") as file:
        file.write(b'7\n{"stage": "x"}\n\xff\n{"sta')
    timings.record("report", 2.5)
    assert {stage: line["seconds"] for stage, line in timings.newest().items()} == {"ingest": 1.5, "report": 2.5}
