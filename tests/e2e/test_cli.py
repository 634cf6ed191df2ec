"""The command line: quick, with the promised exit codes, and nothing imported before it's needed."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.runtime import timings
from diffalign.tracking import summary
from tests.helpers import evaluations
from tests.helpers.scratch import REPO, make, run

COMMANDS = [
    *(
        "stage",
        "run",
        "plan",
        "power",
        "serve",
        "summary",
        "study",
        "arena",
        "collect",
        "sync",
        "promote",
        "export",
        "push",
    ),
    *("ui", "tensorboard", "show", "compare", "score", "import", "relabel", "new", "upgrade", "preset", "set"),
    *("fetch", "pretrain-demo"),
]
HEAVY = {"torch", "diffusers", "transformers", "mlflow", "prefect", "pyarrow", "numpy", "pydantic", "dvc", "rich"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing has run."""
    return make(tmp_path_factory.mktemp("cli") / "project")


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line with the streams apart."""
    return subprocess.run(
        [sys.executable, "pipeline.py", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_help_takes_under_a_second() -> None:
    # The work, not the wall clock: on a machine that is busy with other things the clock says nothing of this command.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cli(REPO, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line] == COMMANDS
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, pipeline; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_stage_writes_its_time(project: Path) -> None:
    run(project, "pipeline.py", "stage", "ingest")
    line = json.loads((project / "runs/timings.jsonl").read_text().splitlines()[-1])
    assert set(line) == {"stage", "seconds", "cached", "at"}
    assert line["stage"] == "ingest"
    assert not line["cached"]


def test_a_judge_without_its_weights_is_told_before_anything_runs(tmp_path: Path) -> None:
    """run refuses; a training goes on, and says that its images won't be scored."""
    project = make(tmp_path / "project")
    params = yaml_file.read(project / "params.yaml")
    params["rewards"]["pickscore"] = {"path": "models/rewards/pickscore", "batch_size": 1, "sha256": None}
    (project / "params.yaml").write_text(yaml_file.dump(params))
    done = cli(project, "run")
    assert done.returncode == 2 and "python pipeline.py fetch --rewards pickscore" in done.stderr
    assert not (project / "data").exists()
    told = cli(project, "stage", "train@dpo").stderr
    assert "stage train@dpo: a later stage will fail: rewards.pickscore.path" in told


def test_an_unknown_stage(project: Path) -> None:
    done = cli(project, "stage", "trian@dpo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: stage: expected one of evaluate, ingest, train, got 'trian'.\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ingest@x", "stage ingest@x: ingest is one stage, without a name behind an @: run `stage ingest`."),
        ("ingest@", "stage ingest@: ingest is one stage, without a name behind an @: run `stage ingest`."),
        ("train", "stage train: expected one of train@base, train@dpo; train is a stage for each of the policies"),
        ("train@", "stage train@: expected one of train@base, train@dpo; train is a stage for each of the policies"),
        ("train@dpoo", "and the name behind the @ is none of the policies in params.yaml, 'dpoo'."),
    ],
)
def test_a_stage_with_a_wrong_name_behind_the_at(project: Path, name: str, text: str) -> None:
    done = cli(project, "stage", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["ui", "serve"])
@pytest.mark.parametrize("port", ["99999", "0", "-1"])
def test_a_port_that_cant_be(project: Path, command: str, port: str) -> None:
    done = cli(project, command, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--port'" in done.stderr and "Traceback" not in done.stderr


def test_of_an_external_launchers_processes_the_first_one_tells(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a stage is noted once, and stages that aren't made for many processes refuse them."""
    folder = shutil.copytree(project, tmp_path / "project")
    given = {"DIFFALIGN_LAUNCHER": "external", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "DIFFALIGN_TRACKING": "off"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    noted = folder / "runs/timings.jsonl"
    noted.unlink(missing_ok=True)
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        assert cli(folder, "stage", "train@base").returncode == 0
        assert (len(noted.read_text().splitlines()) if noted.exists() else 0) == lines
    done = cli(folder, "stage", "ingest")
    assert done.returncode == 2
    assert "DIFFALIGN_LAUNCHER=external is for train" in done.stderr


def test_a_misspelt_switch_is_refused_by_every_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_TRACKNG", "0")
    for command in (("stage", "ingest"), ("sync",)):
        done = cli(project, *command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: DIFFALIGN_TRACKNG in the environment: expected one of DIFFALIGN_DEVICE,")


def test_a_user_error_is_one_message(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("\n  prompts:", "\n  promts:"))
    done = cli(folder, "stage", "ingest")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: params.yaml has 2 errors:\n")
    assert "Traceback" not in done.stderr


def test_our_error_has_its_traceback(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project, tmp_path / "project")
    (folder / "stages/ingest.py").write_text("def run(params):\n    1 / 0\n")
    done = cli(folder, "stage", "ingest")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("error", "said"), [("Stopped", "stopped: saved; go on\n"), ("Outage", "error: saved; go on\n")]
)
def test_what_is_worth_another_try_says_so(project: Path, tmp_path: Path, error: str, said: str) -> None:
    """It was stopped on request, or a service didn't answer."""
    folder = shutil.copytree(project, tmp_path / "project")
    text = f"from diffalign.core.errors import {error}\ndef run(params):\n    raise {error}('saved; go on')\n"
    (folder / "stages/ingest.py").write_text(text)
    done = cli(folder, "stage", "ingest")
    assert (done.returncode, done.stdout, done.stderr) == (75, "", said)


def test_a_wrong_option_is_a_user_error(project: Path) -> None:
    assert cli(project, "summary", "--nope").returncode == 2


def test_summary_before_there_is_one(project: Path) -> None:
    done = cli(project, "summary")
    assert done.returncode == 2
    assert "dvc repro" in done.stderr


def test_sync_before_there_is_anything(project: Path) -> None:
    assert "dvc repro" in cli(project, "sync").stdout


RESULTS = evaluations.evaluation(
    comparisons=[evaluations.comparison("dpo")],
    implicit_reward=[
        {"policy": "dpo", "accuracy": 0.66, "ci_low": None, "ci_high": None, "pairs": 420, "ceiling": 0.76}
    ],
)


def test_summary_shows_results_times_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, text in {
        "metrics/evaluate.json": json.dumps(RESULTS),
        "reports/report.html": "x",
        "runs/tracking/synced.json": '{"link": "http://127.0.0.1:5000/#/experiments/1/runs", "path": "/"}',
    }.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    timings.record("ingest", 2.04)
    timings.record("train@dpo", 9)
    timings.record("train@dpo", 123.456)
    timings.record("train@dpo", 1.0, cached=True)
    text = summary.text()
    assert re.search(r"dpo over base +oracle +88\.8% +85\.0–92\.0% +280 / 8 / 32 +320 × 1\n", text)
    assert re.search(r"dpo +66\.0% +– +76\.0% +420\n", text)
    assert re.search(r"ingest +2\.0\n", text)
    assert re.search(r"train@dpo +123\.5 +from the cache since\n", text)
    assert "Report: reports/report.html" in text
    assert "MLflow: make ui, then http://127.0.0.1:5000/#/experiments/1/runs" in text
    assert "| dpo over base | oracle | 88.8% | 85.0–92.0% | 280 / 8 / 32 | 320 × 1 |" in summary.markdown()


def test_summary_without_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"metrics/evaluate\.json"):
        summary.text()


def test_timings_survive_a_line_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert timings.read() == []
    timings.record("ingest", 1)
    with open(timings.FILE, "a") as file:
        file.write('{"stage": "prec')
    timings.record("train@dpo", 2)
    assert [line["stage"] for line in timings.read()] == ["ingest", "train@dpo"]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A git repository with a preset, the committed params.yaml and the code."""
    folder = make(tmp_path / "project")
    (folder / "presets").mkdir()
    for name in ("one", "two"):
        (folder / f"presets/{name}.yaml").write_text(f"# {name}\n" + (folder / "params.yaml").read_text())
    for command in (
        ["init", "-q"],
        ["add", "params.yaml"],
        ["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "params"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_preset_replaces_what_git_or_another_preset_has(workspace: Path) -> None:
    done = cli(workspace, "preset", "one")
    assert done.returncode == 0, done.stderr
    assert (workspace / "params.yaml").read_text().startswith("# one\n")
    assert "python pipeline.py fetch" in done.stdout  # assets/tiny-sd isn't there
    assert cli(workspace, "preset", "two").returncode == 0
    assert (workspace / "params.yaml").read_text().startswith("# two\n")
    assert "already" in cli(workspace, "preset", "two").stdout


def test_preset_keeps_an_edited_one(workspace: Path) -> None:
    edited = (workspace / "params.yaml").read_text() + "# mine\n"
    (workspace / "params.yaml").write_text(edited)
    done = cli(workspace, "preset", "one")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (workspace / "params.yaml").read_text() == edited
    assert cli(workspace, "preset", "one", "--force").returncode == 0
    assert (workspace / "params.yaml").read_text().startswith("# one\n")


def test_preset_that_is_none_or_invalid(workspace: Path) -> None:
    assert "expected one of one, two, got 'sd16'" in cli(workspace, "preset", "sd16").stderr
    (workspace / "presets/bad.yaml").write_text("data: 1\n")
    done = cli(workspace, "preset", "bad")
    assert done.returncode == 2
    assert "presets/bad.yaml has" in done.stderr
