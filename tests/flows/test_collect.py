"""The collect flow on a real Prefect server: the votes of a database come into the DAG's input; without one nothing."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from arena.plan import Image, Task
from arena.store import Store
from diffalign.core.files import sha256_bytes
from diffalign.data import votes
from tests.helpers import pickapic
from tests.helpers.prefect_server import post, start
from tests.helpers.scratch import make, run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nobody has voted."""
    return make(tmp_path_factory.mktemp("collect") / "project")


def collect(folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Runs the flow against the server; returns what it said, and its run there."""
    code = "from flows.collect import collect; collect()"
    done = run(folder, "-c", code, ok=False, PREFECT_API_URL=start())
    asked = {"flows": {"name": {"any_": ["collect"]}}, "sort": "START_TIME_DESC", "limit": 1}
    return done, dict(post("flow_runs/filter", flow_runs={"start_time": {"is_null_": False}}, **asked)[0])


def test_votes_are_collected_and_a_project_without_an_arena_is_fine(project: Path) -> None:
    done, found = collect(project)
    assert done.returncode == 0, done.stdout
    assert (found["state_type"], (project / "data/votes").exists()) == ("COMPLETED", False)
    assert "Hold a vote" in done.stdout

    images = []
    for seed, name in enumerate(("base", "dpo")):
        data = pickapic.image(seed, format_="PNG")
        images.append(Image(sha256_bytes(data), name))
        (project / "data/arena/images").mkdir(parents=True, exist_ok=True)
        (project / "data/arena/images" / images[-1].sha256).write_bytes(data)
    store = Store(project / "data/arena/arena.db")
    store.vote("r-1", Task("pair", "p1", "a disc", 0, images[0], images[1], ("overall",)), "overall", "b")
    store.close()
    done, found = collect(project)
    assert (done.returncode, found["state_type"]) == (0, "COMPLETED"), done.stdout
    (vote,) = votes.read(project / "data/votes")
    assert (vote.answer, vote.model_b, vote.rater_id) == ("b", "dpo", "r-1")


@pytest.mark.slow
def test_votes_that_cant_be_collected_fail_the_flow(project: Path) -> None:
    (project / "data/arena").mkdir(parents=True, exist_ok=True)
    for path in (project / "data/arena").glob("arena.db*"):
        path.unlink()
    (project / "data/arena/arena.db").write_bytes(b"no database" * 1000)
    done, found = collect(project)
    assert done.returncode != 0 and found["state_type"] == "FAILED"
    assert "expected the arena's database" in done.stdout
