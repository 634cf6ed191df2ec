"""The optimizers by name: settings, a value by hand, and each goes on from a checkpoint bit for bit."""

import builtins
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffalign.core.errors import UserError
from diffalign.training import checkpoints
from diffalign.training.checkpoints import Checkpoint
from diffalign.training.optimizers import OPTIMIZERS


def parameters() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (5,), (4, 3, 3, 3), (64, 64), (96, 64))
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def steps(weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, start: int, end: int) -> None:
    for step in range(start, end):
        for weight in weights:
            weight.grad = torch.sin(weight.detach() * (step + 1))
        optimizer.step()


EXTRA = "adamw8bit"


@pytest.mark.parametrize("name", [*sorted(OPTIMIZERS.keys() - {EXTRA}), pytest.param(EXTRA, marks=pytest.mark.extra)])
def test_it_goes_on_from_a_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Also in 8 bits, which weights of 4096 elements and more have: then two of them share their table of codes."""
    whole = parameters()
    steps(whole, OPTIMIZERS[name](whole, 1e-2, 0.01), 0, 6)
    first = parameters()
    optimizer = OPTIMIZERS[name](first, 1e-2, 0.01)
    steps(first, optimizer, 0, 3)
    tensors = checkpoints.optimizer_tensors(optimizer)
    assert any(value.dtype == torch.uint8 for value in tensors.values()) is (name == EXTRA)
    checkpoints.save(tmp_path, Checkpoint(3, "owner", [], tensors), keep=1)
    kept = checkpoints.newest(tmp_path, "owner")
    assert kept is not None
    second = parameters()
    with torch.no_grad():
        for a, b in zip(second, first, strict=True):
            a.copy_(b)
    fresh = OPTIMIZERS[name](second, 1e-2, 0.01)
    checkpoints.load_optimizer(fresh, kept.tensors)
    for a, b in zip(second, first, strict=True):
        kinds = {key: type(value) for key, value in optimizer.state[b].items()}
        assert {key: type(value) for key, value in fresh.state[a].items()} == kinds
    steps(second, fresh, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(second, whole, strict=True))


def test_adamw_is_what_it_was() -> None:
    """The first step moves each weight by the rate, against its gradient's sign, after the decay."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = OPTIMIZERS["adamw"]([weight], 0.1, 0.5)
    assert optimizer.defaults["fused"]
    weight.grad = torch.tensor([3.0, -0.01])
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.95 - 0.1, -1.9 + 0.1], rel=1e-5)


def test_adafactor_by_hand() -> None:
    """The first step, where beta2 = 1 - 1^-0.8 = 0: row and column means of g^2, no clipping, the rate as given.

    g = [[1, 2], [3, 4]] times 0.1: rows' means of squares 0.025 and 0.125, columns' 0.05 and 0.1, their mean 0.075; the
    second moment is row * column / mean. The update's RMS is 1.01, so it's divided by that.
    """
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = OPTIMIZERS["adafactor"]([weight], 0.01, 0.1)
    g = [[0.1, 0.2], [0.3, 0.4]]
    weight.grad = torch.tensor(g)
    optimizer.step()
    rows, columns, mean = [0.025, 0.125], [0.05, 0.1], 0.075
    update = [[g[i][j] / math.sqrt(rows[i] * columns[j] / mean) for j in range(2)] for i in range(2)]
    rms = max(math.sqrt(sum(u * u for row in update for u in row) / 4), 1)
    expected = [[1 - 0.01 * 0.1 - 0.01 * update[i][j] / rms for j in range(2)] for i in range(2)]
    torch.testing.assert_close(weight.detach(), torch.tensor(expected))


def test_adafactor_keeps_a_row_and_a_column() -> None:
    weight = nn.Parameter(torch.ones(8, 6))
    optimizer = OPTIMIZERS["adafactor"]([weight], 0.01, 0.0)
    weight.grad = torch.ones(8, 6)
    optimizer.step()
    sizes = {name: value.numel() for name, value in checkpoints.optimizer_tensors(optimizer).items()}
    assert sum(sizes.values()) == 8 + 6 + 2, "and the step and the weights' RMS"


def test_without_bitsandbytes_the_hint_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'diffalign\[8bit\]'"):
        OPTIMIZERS["adamw8bit"](parameters(), 1e-2, 0.0)


def test_what_a_file_would_not_keep_is_refused() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = OPTIMIZERS["adamw"]([weight], 0.1, 0.0)
    optimizer.state[weight]["factor"] = 0.1
    with pytest.raises(TypeError, match=r"expected tensors and whole numbers, got 0\.1"):
        checkpoints.optimizer_tensors(optimizer)
