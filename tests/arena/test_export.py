"""From galleries to votes on disk: material that can't be compared, and an export that stage people can read."""

import re
import shutil
from pathlib import Path

import pytest

from arena import export, material
from arena.plan import Settings, plan
from arena.server import listen
from arena.store import Store
from diffalign.core.errors import UserError
from diffalign.data import votes
from diffalign.evaluation import people
from diffalign.evaluation.intervals import Interval
from tests.helpers import scratch
from tests.helpers.arena_server import POLICIES, make
from tests.helpers.galleries import write_gallery
from tests.helpers.prefect_server import free_port

OUT, COPIES, DATABASE = Path("data/votes"), Path("data/arena/images"), Path("data/arena/arena.db")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))


def gather(*names):
    return material.gather(names, Path("images"), COPIES)


def hold(raters=3):
    """Attentive raters prefer the second policy always; each third one chooses the left, whatever it is."""
    pairs, noise = gather(*POLICIES)
    store = Store(DATABASE)
    for number in range(raters):
        for task in plan(pairs, noise, f"r{number}", Settings(0, ("overall",), 60)):
            answer = task.expected or ("a" if task.left.model == POLICIES[1] else "b")
            store.vote(f"r{number}", task, "overall", "a" if number % 3 == 2 else answer)
    store.close()


def test_a_vote_from_images_to_figures():
    hold()
    said = export.export(DATABASE, COPIES, OUT)
    assert re.match(r"36 answers on pairs, 3 on repeats, 9 checks, of 3 raters, are in", said)
    found = votes.read(OUT)
    shown = {
        name: {entry.sha256 for entry in material.galleries.read(Path("images") / name).entries} for name in POLICIES
    }
    result = people.judge(found, shown, Interval(200, 0.95, 0))
    assert (result.raters, result.votes, result.other_images) == (3, 24, 0)
    assert (result.checks.raters_failed, result.checks.votes_left_out) == (1, 13)
    (row,) = result.win_rates
    assert (row.policy, row.wins, row.raters_for) == (POLICIES[1], 24, 2)
    stored = {path.name for path in (OUT / votes.IMAGES).iterdir()}
    assert stored == set.union(*shown.values())


def test_equal_votes_are_equal_bytes_and_noise_isnt_exported():
    hold()
    export.export(DATABASE, COPIES, OUT)
    before = (OUT / "arena.parquet").read_bytes()
    export.export(DATABASE, COPIES, OUT)
    assert (OUT / "arena.parquet").read_bytes() == before
    checks = [vote for vote in votes.read(OUT) if vote.kind == "noise"]
    noise = {vote.image_a if vote.expected == "b" else vote.image_b for vote in checks}
    assert noise and not noise & {path.name for path in (OUT / votes.IMAGES).iterdir()}


def test_images_that_are_made_anew_dont_change_what_was_voted_on():
    hold()
    shutil.rmtree("images")
    make(Path("other"))
    export.export(DATABASE, COPIES, OUT)
    assert len(list((OUT / votes.IMAGES).iterdir())) == 24


def test_without_a_database_nothing_happens():
    assert "Hold a vote" in export.export(DATABASE, COPIES, OUT)
    assert not OUT.exists() and not DATABASE.exists()


def test_a_copy_that_is_gone():
    hold(1)
    for path in COPIES.iterdir():
        path.write_bytes(b"other")
    with pytest.raises(UserError, match="expected the image that was voted on, found 5 other bytes"):
        export.export(DATABASE, COPIES, OUT)
    assert not (OUT / "arena.parquet").exists()


@pytest.mark.parametrize("names", [(), POLICIES[:1], ("nobody", POLICIES[0]), (POLICIES[0], POLICIES[0])])
def test_policies_that_cant_be_compared(names):
    with pytest.raises(UserError, match=r"expected two or more policies.*There are secret_base, secret_dpo"):
        gather(*names)


def test_equal_images_everywhere_are_nothing_to_compare():
    for name in ("one", "two"):
        write_gallery(Path("images") / name, ["a disc"])
    with pytest.raises(UserError, match="nothing to compare"):
        gather("one", "two")
    write_gallery(Path("images/three"), ["another disc"])
    with pytest.raises(UserError, match="different prompts"):
        gather("one", "three")


def test_a_port_in_use():
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match=r"expected a free port.*--port N"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="192"):
        listen("192.0.2.1", 8600)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base", "dpo"], "error: arena: expected two or more policies with images, each once, found base, dpo."),
        (["--question", "taste"], "error: arena: --question: expected overall, appeal, alignment, found taste."),
    ],
)
def test_what_the_command_refuses(tmp_path, arguments, said):
    folder = scratch.make(tmp_path / "project")
    done = scratch.run(folder, "pipeline.py", "arena", *arguments, "--port", str(free_port()), ok=False)
    assert done.returncode == 2
    assert said in done.stdout and "Traceback" not in done.stdout
