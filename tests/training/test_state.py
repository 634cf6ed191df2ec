"""What a checkpoint brings back: a method's own state, bit for bit; and what a run goes on with after a change."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffalign.config.params import Params
from diffalign.core.files import hash_folder, sha256_file
from tests.helpers import forked, stateful

POLICIES = {"base": {"method": "none"}, "dpo": {"method": "dpo", "beta": 2000}}
KILLED = -9


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, in which the workers of this file train."""
    yield from forked.project(tmp_path_factory.mktemp("project"), POLICIES)


def trained(work: Path, values: Params, processes: int, **changes: int) -> list[int | None]:
    """Trains, with a checkpoint after every second of eight steps; the workers' exit codes."""
    Path("steps-made").unlink(missing_ok=True)
    forked.prepare(work, values, "dpo", processes, **changes)
    return forked.finish(forked.start(work, processes, stateful.work))


def steps() -> list[int]:
    """The steps that the last training began."""
    return [int(step) for step in Path("steps-made").read_text().split()]


def results(work: Path) -> tuple[str, str]:
    return hash_folder(work / "out"), sha256_file(work / "curve.jsonl")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_methods_state_is_killed_and_resumed_bit_for_bit(values: Params, processes: int) -> None:
    """A running mean that scales the loss: killed in the sixth step, it's the fourth's again; forgotten, it isn't."""
    whole, killed, forgetful = (Path(f"runs/{name}-{processes}") for name in ("whole", "killed", "forgetful"))
    assert trained(whole, values, processes) == [0] * processes
    Path("kill-at").write_text("5")
    assert KILLED in trained(killed, values, processes)
    assert not (killed / "out").exists()
    shutil.copytree(killed, forgetful)
    assert trained(killed, values, processes) == [0] * processes
    assert steps() == [4, 5, 6, 7]
    assert results(killed) == results(whole)
    Path("forget").touch()
    try:
        assert trained(forgetful, values, processes) == [0] * processes
    finally:
        Path("forget").unlink()
    assert results(forgetful) != results(whole), "the state decides what is trained"


def test_a_run_goes_on_after_its_micro_batch_was_lowered(values: Params) -> None:
    """As after running out of memory: the global batches stay, and so does what was trained of them."""
    work = Path("runs/lowered")
    Path("kill-at").write_text("5")
    assert trained(work, values, 1, micro_batch_size=8) == [KILLED]
    other = Path("runs/other-seed")
    shutil.copytree(work, other)
    assert trained(work, values, 1, micro_batch_size=2) == [0]
    assert steps() == [4, 5, 6, 7]
    assert trained(other, values, 1, seed=7) == [2]
    assert "expected one of dpo-" in (other / "error.txt").read_text(), "another seed's checkpoints are refused"
