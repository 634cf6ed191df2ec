"""Annealed importance guidance: the weights, and what each network has to say when."""

import pytest
import torch

from diffalign.diffusion.mixing import mixed, weight


def test_the_weights() -> None:
    assert weight(0, 10, 2.0) == 0 and weight(10, 10, 0.5) == 1
    assert weight(5, 10, 2.0) == pytest.approx(0.25)


def test_the_base_alone_decides_at_the_first_step_and_the_policy_more_at_each() -> None:
    """Outputs 0 and 1: the mix is the weight itself, at the step whose time the network is told."""
    times = [981.0, 501.0, 21.0]
    denoise = mixed(lambda x, t, c: torch.ones_like(x), lambda x, t, c: torch.zeros_like(x), times, 1.0)
    found = [denoise(torch.zeros(2, 1, 1, 1), torch.full((2,), t), {}).flatten().tolist() for t in times]
    assert found == [[0, 0], pytest.approx([1 / 3] * 2), pytest.approx([2 / 3] * 2)]
