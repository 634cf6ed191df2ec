"""The DAG under DVC in a clone of its own: what runs again and what doesn't, its own commands, kills, and a remote."""

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.clone import POLICIES, clone, digest, edit, environment, ran, run
from tests.helpers.project import unjudged

pytestmark = pytest.mark.slow

ONCE = {"check", "ingest", "card", "precompute", "reference", "feedback", "raters", "rules", "score@oracle"} | {
    *("people", "evaluate", "audit", "gate", "report")
}
STAGES = ONCE | {f"{stage}@{policy}" for stage in ("train", "generate") for policy in POLICIES}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which everything has run once."""
    folder = clone(tmp_path_factory.mktemp("dvc") / "clone")
    output = run("dvc", "repro", cwd=folder)
    assert ran(output) == STAGES
    assert not [line for line in output.splitlines() if "is empty" in line or "|" in line]  # no warning, no bar
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commits dvc.lock and what else git sees: what DVC compares with."""
    run("git", "add", "-A", cwd=folder)
    name = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    run("git", *name, "commit", "-q", "--allow-empty", "-m", "run", cwd=folder)


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
    assert ran(run("dvc", "repro", cwd=project)) <= {"evaluate", "audit", "gate", "report"}
    assert digest(project, ["models", "images", "metrics"]) == {
        name: value for name, value in before.items() if name.split("/")[0] in ("models", "images", "metrics")
    }


def test_an_edit_of_a_reward_runs_its_own_scoring_only(project: Path) -> None:
    """What comes out is the same, so that what reads it isn't run either; an audit's filters may be of any reward."""
    file = project / "diffalign/rewards/oracle.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert ran(run("dvc", "repro", cwd=project)) == {"score@oracle", "audit", "feedback", "rules"}


def test_without_rewards_the_rest_runs(project: Path) -> None:
    """Nobody scores, as in the presets: the folder of the scores is there all the same."""
    params = project / "params.yaml"
    before = params.read_text()
    values = yaml.safe_load(before)
    values["rewards"] = {}
    unjudged(values, {})
    params.write_text(yaml.safe_dump(values))
    for path in (project / "metrics/scores").glob("oracle.*"):
        path.unlink()
    assert ran(run("dvc", "repro", cwd=project)) == {
        *("check", "feedback", "raters", "rules", "evaluate", "audit", "gate", "report")
    }
    params.write_text(before)
    run("dvc", "repro", cwd=project)


def test_promotion_goes_through_the_gate_of_what_is_there(project: Path) -> None:
    """Random models win nothing: refused with a table. The challenger needs no gate, but figures of what is there."""
    done = run("python", "pipeline.py", "promote", "dpo", cwd=project, ok=False)
    assert "champion stays where it is" in done and "win rate by oracle on test" in done
    done = run("python", "pipeline.py", "promote", "dpo", "--alias", "challenger", cwd=project)
    assert "models:/shapes@challenger is dpo, version 1" in done
    verdicts = project / "metrics/gate.json"
    before = verdicts.read_bytes()
    verdicts.unlink()  # it may be a link into DVC's cache
    verdicts.write_bytes(before.replace(b'"failed"', b'"passed"'))
    done = run("python", "pipeline.py", "promote", "dpo", cwd=project, ok=False)
    assert "gate: metrics/gate.json" in done and "dvc repro gate" in done
    verdicts.write_bytes(before)


def test_a_misspelt_key_costs_no_outs(project: Path) -> None:
    """DVC deletes a stage's outs before it runs it; the check's constant out is all that was deleted."""
    before, params = digest(project), (project / "params.yaml").read_text()
    edit(project / "params.yaml", "beta: 2000", "bta: 2000")
    output = run("dvc", "repro", cwd=project, ok=False)
    assert "policies.dpo.bta: unknown key" in output and ran(output) == {"check"}
    assert digest(project) == before
    (project / "params.yaml").write_text(params + "# A comment.\n")
    assert ran(run("dvc", "repro", cwd=project)) == {"check"}
    (project / "params.yaml").write_text(params)
    assert ran(run("dvc", "repro", cwd=project)) == set()


@pytest.mark.nightly
def test_another_beta_as_an_experiment(project: Path) -> None:
    """What follows that policy runs; metrics, plots and experiments are compared with the last commit."""
    commit(project)
    output = run("dvc", "exp", "run", "-n", "other", "-S", "policies.dpo.beta=1000", cwd=project)
    assert ran(output) == {
        "check",
        "rules",
        "train@dpo",
        "generate@dpo",
        "score@oracle",
        "people",
        "evaluate",
        "audit",
        "gate",
        "report",
    }
    (metrics,) = json.loads(run("dvc", "metrics", "show", "--json", cwd=project))[""]["data"].values()
    assert set(metrics["data"]) == {"dpo", "sft"}
    assert {"implicit_accuracy", "alarms", "gate_passed"} <= set(metrics["data"]["dpo"])
    run("dvc", "metrics", "diff", cwd=project)
    run("dvc", "plots", "diff", cwd=project)
    page = (project / "runs/plots/index.html").read_text()
    assert "Training loss" in page and '"rev": "HEAD"' in page and "<script src" not in page
    header, *rows = csv.reader(run("dvc", "exp", "show", "--csv", "--only-changed", cwd=project).splitlines())
    assert "policies.dpo.beta" in header and len(header) < 20
    assert {row[header.index("policies.dpo.beta")] for row in rows} == {"1000", "2000"}
    commit(project)


def test_a_kill_in_mid_training_and_new_words_change_nothing(project: Path) -> None:
    """SIGKILL to dvc and all it started, then another docstring and a comment in a loss's file.

    The next repro goes on from a checkpoint and ends with the same bytes. `dvc commit -f` tells DVC of the words.
    """
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
    file = project / "diffalign/diffusion/losses.py"
    before = file.read_text()
    file.write_text(before.replace('"""', '"""Reworded. ', 1) + "\n# A comment.\n")
    output = run("dvc", "repro", "--force", "--single-item", "train@dpo", cwd=project)
    assert "goes on from step" in output
    assert digest(project, ["models/policies/dpo", "curves"]) == uninterrupted
    file.write_text(before)
    run("dvc", "commit", "-f", "train@dpo", cwd=project)
    assert ran(run("dvc", "repro", cwd=project)) == set()


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
    commit(project)
    other = tmp_path / "other"
    run("git", "clone", "-q", str(project), str(other), cwd=tmp_path)
    run("dvc", "pull", cwd=other)
    assert ran(run("dvc", "repro", cwd=other)) == set()
    assert digest(other) == digest(project)
