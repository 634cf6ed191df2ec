"""The DAG under DVC in a clone of its own: what runs again and what doesn't, kills, and a remote."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.project import REPO, make_inputs, make_params

pytestmark = pytest.mark.slow

POLICIES = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo", "beta": 2000, "steps": 30},
    "sft": {"method": "sft"},
}
STAGES = {"ingest", "precompute", "reference", "score@oracle", "evaluate", "report"} | {
    f"{stage}@{policy}" for stage in ("train", "generate") for policy in POLICIES
}
OUTS = ["data/comparisons", "data/shards", "models", "curves", "images", "metrics", "reports"]


def run(*command: str, cwd: Path, ok: bool = True) -> str:
    """A command's output, both streams."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600)
    output = done.stdout + done.stderr
    assert not ok or done.returncode == 0, output
    return output


def environment() -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def ran(output: str) -> set[str]:
    """The stages whose command DVC ran."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def digest(folder: Path, names: list[str] = OUTS) -> dict[str, str]:
    """SHA-256 of every file below some folders, but hidden ones: git's, not DVC's."""
    files = [file for name in names for file in sorted((folder / name).rglob("[!.]*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def clone(folder: Path) -> Path:
    """A git repository with this one's tracked files as they are now, and a small project's inputs and params."""
    folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.strip("\0").split("\0"):
        if not name.startswith("assets/") and (REPO / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((REPO / name).read_bytes())
    make_inputs(folder)
    make_params(folder, POLICIES, probe={"rewards": []})
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "all", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which everything has run once."""
    folder = clone(tmp_path_factory.mktemp("dvc") / "clone")
    assert ran(run("dvc", "repro", cwd=folder)) == STAGES
    return folder


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_again_nothing_runs(project: Path) -> None:
    start = time.monotonic()
    output = run("dvc", "repro", cwd=project)
    assert ran(output) == set()
    assert "up to date" in output
    assert time.monotonic() - start < 15


def test_a_file_outside_a_stages_closure_runs_nothing(project: Path) -> None:
    (project / "README.md").write_text("changed")
    (project / "pipeline.py").write_text((project / "pipeline.py").read_text() + "\n# changed\n")
    assert ran(run("dvc", "repro", cwd=project)) == set()


def test_an_edit_of_what_only_evaluation_needs_trains_nothing(project: Path) -> None:
    before = digest(project)
    file = project / "diffalign/evaluation/win_rates.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert ran(run("dvc", "repro", cwd=project)) <= {"evaluate", "report"}
    assert digest(project, ["models", "images", "metrics"]) == {
        name: value for name, value in before.items() if name.split("/")[0] in ("models", "images", "metrics")
    }


def test_an_edit_of_a_reward_runs_its_own_scoring_only(project: Path) -> None:
    """What comes out is the same, so that what reads it isn't run either."""
    file = project / "diffalign/rewards/oracle.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert ran(run("dvc", "repro", cwd=project)) == {"score@oracle"}


def test_without_rewards_the_rest_runs(project: Path) -> None:
    """Nobody scores, as in the presets: the folder of the scores is there all the same."""
    params = project / "params.yaml"
    before = params.read_text()
    values = yaml.safe_load(before)
    values["rewards"] = {}
    params.write_text(yaml.safe_dump(values))
    for path in (project / "metrics/scores").glob("oracle.*"):
        path.unlink()
    assert ran(run("dvc", "repro", cwd=project)) == {"evaluate", "report"}
    params.write_text(before)
    run("dvc", "repro", cwd=project)


def test_an_edit_of_beta_runs_that_policy_and_what_follows(project: Path) -> None:
    edit(project / "params.yaml", "beta: 2000", "beta: 1000")
    assert ran(run("dvc", "repro", cwd=project)) == {
        "train@dpo",
        "generate@dpo",
        "score@oracle",
        "evaluate",
        "report",
    }


def test_a_kill_in_mid_training_changes_nothing(project: Path) -> None:
    """SIGKILL to dvc and all it started; the next repro goes on from a checkpoint and ends with the same bytes."""
    uninterrupted = digest(project, ["models/policies/dpo", "curves"])
    command = ["dvc", "repro", "--force", "--single-item", "train@dpo"]
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list((project / "runs").glob("train-dpo-*/checkpoints/step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = run("dvc", "repro", "--force", "--single-item", "train@dpo", cwd=project)
    assert "goes on from step" in output
    assert digest(project, ["models/policies/dpo", "curves"]) == uninterrupted


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3-compatible server on loopback, with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    import boto3

    boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
    ).create_bucket(Bucket="diffalign")
    yield url
    server.stop()


def test_push_pull_repro_runs_nothing_in_another_clone(project: Path, bucket: str, tmp_path: Path) -> None:
    run("dvc", "repro", cwd=project)
    run("dvc", "remote", "add", "-d", "store", "s3://diffalign/cache", cwd=project)
    run("dvc", "remote", "modify", "store", "endpointurl", bucket, cwd=project)
    run("dvc", "push", cwd=project)
    run("git", "add", "-A", "-f", "dvc.lock", ".dvc/config", cwd=project)
    run("git", "add", "-A", cwd=project)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "run", cwd=project)
    other = tmp_path / "other"
    run("git", "clone", "-q", str(project), str(other), cwd=tmp_path)
    run("dvc", "pull", cwd=other)
    assert ran(run("dvc", "repro", cwd=other)) == set()
    assert digest(other) == digest(project)
