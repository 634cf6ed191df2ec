"""The moving average of a policy's weights."""

import pytest
import torch

from diffalign.training import ema


def test_by_hand() -> None:
    """Decay 0.9 from 1, over the weights 2 and 4: 0.9 * 1 + 0.1 * 2 = 1.1, then 0.9 * 1.1 + 0.1 * 4 = 1.39."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    average = ema.start({"w": weight}, 0.9)
    for value in (2.0, 4.0):
        with torch.no_grad():
            weight.copy_(torch.tensor([value, -value]))
        average.update({"w": weight})
    assert average.averages["w"].tolist() == pytest.approx([1.39, -1.39])
    assert not average.averages["w"].requires_grad


def test_shares_of_each_step() -> None:
    """After n steps w_i has (1 - d) d^(n - i), the init d^n; in float64, with d = 0.8."""
    values = [3.0, -1.0, 0.5, 7.0, 2.0]
    weights = {"w": torch.tensor([values[0]])}
    average = ema.start(weights, 0.8)
    for value in values[1:]:
        average.update({"w": torch.tensor([value])})
    expected = 0.8**4 * values[0] + sum(0.2 * 0.8 ** (4 - i) * values[i] for i in range(1, 5))
    assert average.averages["w"].item() == pytest.approx(expected)


def test_it_is_fp32_whatever_the_weights_are() -> None:
    """A weight that moves by less than bf16 can tell from 1: the average does."""
    average = ema.start({"w": torch.ones(1, dtype=torch.bfloat16)}, 0.999)
    average.update({"w": torch.full((1,), 1.5, dtype=torch.bfloat16)})
    assert average.averages["w"].dtype == torch.float32
    assert average.averages["w"].item() == pytest.approx(1.0005)


def test_the_start_is_a_copy() -> None:
    weight = torch.zeros(1)
    average = ema.start({"w": weight}, 0.5)
    weight.fill_(9.0)
    assert average.averages["w"].item() == 0
