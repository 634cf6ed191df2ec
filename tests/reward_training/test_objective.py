"""PickScore's objective: values by hand, its symmetry, its gradient, and the rate of learning."""

import math

import pytest
import torch
from torch import Tensor

from diffalign.reward_training.objective import correct, learning_rate, preference_loss, scores


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_by_hand() -> None:
    """At equal scores the softmax is 1/2 whatever the answer: ln 2. At a lead of ln 3 it is 3/4 and 1/4.

    So the loss is -ln 3/4, -ln 1/4 and, for a tie, their mean; for 3/4 of the votes it is their entropy.
    """
    zero = numbers(0, 0, 0, 0)
    share = numbers(1, 0, 0.5, 0.75)
    assert preference_loss(zero, zero, share).tolist() == pytest.approx([math.log(2)] * 4)
    lost, won = -math.log(1 / 4), -math.log(3 / 4)
    found = preference_loss(numbers(2, 2, 2, 2) + math.log(3), numbers(2, 2, 2, 2), share)
    assert found.tolist() == pytest.approx([won, lost, (won + lost) / 2, 0.75 * won + 0.25 * lost])


def test_exchanging_the_images_and_the_votes_changes_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, generator=draws, dtype=torch.float64) * 5
    share = torch.rand(50, generator=draws, dtype=torch.float64)
    torch.testing.assert_close(preference_loss(first, second, share), preference_loss(second, first, 1 - share))


def test_the_gradient_is_the_softmaxs_distance_from_the_votes() -> None:
    """dL/d first = σ(first - second) - share; dL/d second is minus that. A tie at equal scores pulls nowhere."""
    first, second = numbers(0, 0, 2, 2, math.log(3)).requires_grad_(), numbers(0, 0, 0, 0, 0).requires_grad_()
    share = numbers(0.5, 1, 1, 0.5, 0.75)
    preference_loss(first, second, share).sum().backward()
    assert first.grad is not None and second.grad is not None
    sigmoid = 1 / (1 + math.exp(-2))
    assert first.grad.tolist() == pytest.approx([0, -0.5, sigmoid - 1, sigmoid - 0.5, 0])
    assert second.grad.tolist() == pytest.approx((-first.grad).tolist())
    assert torch.autograd.gradcheck(preference_loss, (first, second, share))


def test_huge_leads_stay_finite() -> None:
    """A lost lead of 10,000 costs 10,000, a won one nothing."""
    assert preference_loss(numbers(1e4, 1e4), numbers(0, 0), numbers(0, 1)).tolist() == [1e4, 0]


def test_a_score_is_the_scaled_cosine() -> None:
    """exp(ln 20) times the cosines of 0°, 60° and 180°."""
    images = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2], [-1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    found = scores(images, texts, torch.tensor(20.0).log())
    assert found.tolist() == pytest.approx([20, 10, -20])


def test_agreement_with_the_votes() -> None:
    """Most votes decide; equal scores are half right; a tie has no right answer."""
    found = correct(numbers(2, 2, 1, 3), numbers(1, 1, 1, 0), numbers(1, 0.2, 0, 0.5))
    assert found[:3].tolist() == [1, 0, 0.5] and found[3].isnan()


def test_the_rate_rises_and_falls() -> None:
    """Two steps of warm-up to 1, then a line that reaches 0 behind the sixth step; or constant."""
    linear = [learning_rate(step, 1.0, 2, 6, "linear") for step in range(6)]
    assert linear == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [learning_rate(step, 1.0, 2, 6, "constant") for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    assert learning_rate(0, 1.0, 0, 1, "linear") == 1
