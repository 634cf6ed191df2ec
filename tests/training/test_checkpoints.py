"""Checkpoints: round trip, retention, and what is broken is passed over with a word, what is another's refused."""

import json
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.training import checkpoints
from diffalign.training.checkpoints import Checkpoint

REPO = Path(__file__).resolve().parents[2]
UNSHARE = shutil.which("unshare")
MACHINE = {"from_step": 0, "device": "cpu", "processes": 1}


def made(step: int, owner: str = "dpo-0") -> Checkpoint:
    tensors = {
        "weights.a": torch.arange(40.0) * step,
        "skips": torch.tensor([step, 0]),
        "optimizer.0.step": torch.tensor(float(step)),
    }
    return Checkpoint(step, owner, [MACHINE], tensors)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two are equal to the bit."""
    return replace(one, tensors={}) == replace(other, tensors={}) and all(
        one.tensors[n].dtype == t.dtype and torch.equal(one.tensors[n], t) for n, t in other.tensors.items()
    )


def test_round_trip_keeps_as_many_as_asked(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoints.save(tmp_path, made(step), 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]
    found = checkpoints.newest(tmp_path, "dpo-0")
    assert found and same(found, made(30))
    checkpoints.save(tmp_path, made(40), 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000040"]


def test_nothing_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoints.newest(tmp_path, "dpo-0") is None
    assert not caplog.text


def test_another_works_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(10, "sft-0"), 2)
    with pytest.raises(UserError, match=r"step-00000010: expected one of dpo-0, got one of sft-0.*Remove"):
        checkpoints.newest(tmp_path, "dpo-0")


@pytest.mark.parametrize("shape", [(1,), (2, 20), None])
def test_tensors_of_another_shape_are_refused(shape: tuple[int, ...] | None) -> None:
    """`copy_` alone would spread a single number over the whole weight."""
    tensors = {"weights.b": torch.zeros(3)} | ({"weights.a": torch.ones(shape)} if shape else {})
    with pytest.raises(UserError, match=r"for weights\.a expected shape \(40,\), got"):
        checkpoints.check_shapes(tensors, {"weights.b": torch.ones(3), "weights.a": torch.ones(40)})


def flip(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def zeros(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = draw.randint(start + 1, len(data))
    return data[:start] + bytes(end - start) + data[end:]


def longer(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randint(1, 9))


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [flip, flip, flip, cut, zeros, longer]


def damage(folder: Path, draw: random.Random) -> None:
    """Does something to a checkpoint: to its bytes, to a file, or to both."""
    name = draw.choice([checkpoints.STATE, checkpoints.META])
    other = folder.parent / "step-00000010"
    match draw.randrange(10):
        case 0:
            (folder / name).unlink()
        case 1:
            shutil.copy(other / name, folder / name)
        case 2:
            shutil.rmtree(folder)
            shutil.copytree(other, folder)
        case 3:
            (folder / name).unlink()
            (folder / name).mkdir()
        case _:
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(draw.choice(DAMAGES)(data, draw))


def test_mutations_never_give_other_tensors_nor_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """400 seeded ones of the newer of two: what is found is that one, bit for bit, or the older one with a word."""
    draw = random.Random(0)
    whole = tmp_path / "whole"
    for step in (10, 20):
        checkpoints.save(whole, made(step), 2)
    fallen = 0
    for trial in range(400):
        folder = tmp_path / str(trial)
        shutil.copytree(whole, folder)
        damage(folder / "step-00000020", draw)
        caplog.clear()
        found = checkpoints.newest(folder, "dpo-0")
        assert found is not None
        assert same(found, made(found.step))
        assert (found.step, "step-00000020 is broken" in caplog.text) in {(10, True), (20, False)}
        fallen += found.step == 10
        shutil.rmtree(folder)
    assert fallen > 380, "but for a change of white space in the JSON, and zeros over zeros"


def test_where_all_are_broken_it_says_so_and_a_new_start_clears_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        checkpoints.save(tmp_path, made(step), 2)
        (tmp_path / f"step-000000{step}" / checkpoints.STATE).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest(tmp_path, "dpo-0") is None
    assert caplog.text.count("is broken and passed over") == 2
    assert "no checkpoint in" in caplog.text and "starts anew" in caplog.text
    checkpoints.save(tmp_path, made(5), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"], "those of later steps aren't kept in its stead"


FULL = """
import sys, torch
from pathlib import Path
from diffalign.training import checkpoints
from diffalign.core.errors import UserError
folder = Path(sys.argv[1])
def made(step, size): return checkpoints.Checkpoint(step, "dpo-0", [], {"a": torch.full((size,), float(step))})
checkpoints.save(folder, made(1, 10), 2)
for size in (10**5, 10**6):
    try: checkpoints.save(folder, made(2, size), 2)
    except UserError as error: print(error)
print([path.name for path in folder.iterdir()], checkpoints.newest(folder, "dpo-0").step)
checkpoints.save(folder, made(2, 10), 2)
print(checkpoints.newest(folder, "dpo-0").step)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], stderr=subprocess.DEVNULL).returncode != 0 if UNSHARE else True,
    reason="needs leave to mount in a namespace of its own",
)
def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    """A real file system of 256 kB."""
    mount = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1/checkpoints"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    full, fuller, left, after = done.stdout.splitlines()
    assert full.startswith("No space left while writing") and "step-00000002. Free some space" in full
    assert fuller == full
    assert (left, after) == ("['step-00000001'] 1", "2")


def test_an_unfinished_one_is_not_seen(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(10), 2)
    (tmp_path / ".step-00000020.tmp").mkdir()
    (tmp_path / ".step-00000020.tmp" / "checkpoint.json").write_text(json.dumps({"step": 20}))
    found = checkpoints.newest(tmp_path, "dpo-0")
    assert found and found.step == 10


def test_an_optimizer_goes_on_bit_for_bit() -> None:
    def steps(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, start: int, end: int) -> None:
        for i in range(start, end):
            parameter.grad = torch.sin(parameter.detach() * (i + 1))
            optimizer.step()

    def fresh() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        return parameter, torch.optim.AdamW([parameter], lr=0.1)

    whole, optimizer = fresh()
    steps(whole, optimizer, 0, 6)
    first, optimizer = fresh()
    steps(first, optimizer, 0, 3)
    kept = checkpoints.optimizer_tensors(optimizer)
    second, optimizer = fresh()
    with torch.no_grad():
        second.copy_(first)
    checkpoints.load_optimizer(optimizer, kept)
    steps(second, optimizer, 3, 6)
    assert torch.equal(second, whole)
