"""From galleries to votes on disk: material that can't be compared, and an export that stage people can read."""

import json
import re
import shutil
from pathlib import Path

import pytest

from arena import export, material
from arena.plan import Settings, plan
from arena.server import listen
from arena.store import Store
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.data import votes
from diffalign.evaluation import people
from diffalign.evaluation.intervals import Interval
from tests.helpers import pickapic, scratch
from tests.helpers.arena_server import POLICIES, make
from tests.helpers.galleries import write_gallery
from tests.helpers.prefect_server import free_port

SHOWN = [pickapic.image(n, format_="PNG") for n in (1, 2, 2, 3, 4, 4)]
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


def test_a_round_is_put_to_a_vote_and_its_votes_lie_apart():
    """Two prompts with three images each, of which two are equal: a prompt has 3 - 1 pairs."""
    folder = Path("data/samples/r1")
    write_gallery(folder, ["a disc", "a disc", "a disc", "a ring", "a ring", "a ring"], draw=lambda n: SHOWN[n])
    manifest = json.loads((folder / "manifest.json").read_text())
    for n, entry in enumerate(manifest["images"]):
        entry |= {"prompt_index": n // 3, "seed": n % 3}
    write_json(folder / "manifest.json", manifest | {"policy": "secret_dpo"})
    pairs, noise = material.gather_round("r1", COPIES)
    assert [pair.prompt for pair in pairs] == ["a disc"] * 2 + ["a ring"] * 2
    assert all(one.sha256 != other.sha256 for one, other in (pair.images for pair in pairs))
    assert len({pair.pair_id for pair in pairs}) == 4
    store = Store(DATABASE)
    for task in plan(pairs, noise, "anna", Settings(0, ("overall",), 60)):
        store.vote("anna", task, "overall", task.expected or "a")
    store.close()
    assert export.export(DATABASE, COPIES, OUT).startswith("answers on rounds' images, 4 on r1's, are in")
    assert votes.read(OUT) == []
    kept = votes.read(OUT / "rounds")
    assert {votes.round_of(vote) for vote in kept} == {"r1"}  # the checks' too, where one side is noise
    assert len(kept) == 4 + 3
    with pytest.raises(UserError, match=r"sample@r2"):
        material.gather_round("r2", COPIES)
