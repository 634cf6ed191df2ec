"""Policy-gradient terms: values derived by hand, PPO's corners, gradients, advantages of odd groups."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffalign.diffusion.policy_gradient import (
    advantages,
    clamped_loss,
    clipped_loss,
    gaussian_kl,
    history_advantages,
    log_prob,
    masked_loss,
)
from diffalign.diffusion.process import Diffusion, scaled_linear, transition

nan = math.nan


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_log_probability_by_hand() -> None:
    """z = (x - mean) / s = 1, -2, 0, 3 and s = 1/2: the mean of -z^2 / 2 is -14 / 8 = -1.75; -ln s = 0.6931472;
    -ln(2 pi) / 2 = -0.9189385: in all -1.9757914, whether or not C, h, w are more than one.
    """
    z = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64).view(1, 1, 2, 2)
    std = torch.tensor([0.5], dtype=torch.float64)
    assert log_prob(0.2 + 0.5 * z, torch.full_like(z, 0.2), std).item() == pytest.approx(-1.9757913526, abs=1e-9)


def test_log_probability_is_torchs_mean() -> None:
    x, mean, std = random(3, 4, 2, 2), random(3, 4, 2, 2, seed=1), torch.tensor([0.1, 0.5, 2.0]).double()
    expected = Normal(mean, std.view(-1, 1, 1, 1)).log_prob(x).flatten(1).mean(1)
    torch.testing.assert_close(log_prob(x, mean, std), expected)


def test_log_probability_is_float32_at_least() -> None:
    """In bfloat16, with 8 bits, the sum over 4096 elements would be lost."""
    x, mean = random(1, 4, 32, 32).bfloat16(), torch.zeros(1, 4, 32, 32, dtype=torch.bfloat16)
    found = log_prob(x, mean, torch.ones(1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), log_prob(x.double(), mean.double(), torch.ones(1).double()), rtol=1e-5, atol=0
    )


def test_no_gradient_goes_into_the_state_that_was_drawn() -> None:
    x, mean = random(2, 1, 2, 2).requires_grad_(), random(2, 1, 2, 2, seed=1).requires_grad_()
    log_prob(x, mean, torch.ones(2).double()).sum().backward()
    assert x.grad is None and mean.grad is not None


def test_gaussian_kl_by_hand_and_torch() -> None:
    """(0.3 - 0.1)^2 / (2 * 0.2^2) = 0.04 / 0.08 = 0.5."""
    mean, mean_ref, std = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (0.3, 0.1, 0.2))
    assert gaussian_kl(mean, mean_ref, std.view(1)).item() == pytest.approx(0.5)
    mean, mean_ref, std = random(3, 4, 2, 2), random(3, 4, 2, 2, seed=1), torch.tensor([0.1, 0.5, 2.0]).double()
    scale = std.view(-1, 1, 1, 1)
    expected = kl_divergence(Normal(mean, scale), Normal(mean_ref, scale)).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_kl(mean, mean_ref, std), expected)


def test_gaussian_kl_is_the_outputs_squared_difference() -> None:
    """kappa^2 / 2 times the mean of (o - o_ref)^2, kappa = b / s of the move."""
    process = Diffusion(scaled_linear(0.00085, 0.012, 1000).double(), "epsilon")
    x, o, o_ref = (random(2, 4, 2, 2, seed=seed) for seed in range(3))
    times = torch.tensor([981, 501]), torch.tensor([961, 481])
    mean, std = transition(process, o, x, *times, 1.0)
    mean_ref, _ = transition(process, o_ref, x, *times, 1.0)
    _, b, s = process.coefficients(*times, 1.0)
    expected = (b / s) ** 2 / 2 * ((o - o_ref) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_kl(mean, mean_ref, std), expected)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "slope"),
    [
        (1.0, 0.8, -0.8, -0.8),
        (1.0, 1.0, -1.0, -1.0),
        (1.0, 1.2, -1.1, 0.0),
        (-1.0, 0.8, 0.9, 0.0),
        (-1.0, 1.0, 1.0, 1.0),
        (-1.0, 1.2, 1.2, 1.2),
    ],
)
def test_ppos_corners(advantage: float, ratio: float, loss: float, slope: float) -> None:
    """Clip 0.1. The slope, by the log-probability, is -A r where max(-A r, -A clip(r)) takes the first, else 0."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found, r = clipped_loss(logp, torch.zeros(1).double(), torch.tensor([advantage]).double(), 0.1)
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert (found.item(), r.item(), gradient.item()) == pytest.approx((loss, ratio, slope))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_clamp_alone_has_no_gradient_outside(advantage: float) -> None:
    """At ratios 0.8 and 1.2 with clip 0.1: -A * 0.9 and -A * 1.1, without a slope for either sign; inside -A r."""
    logp = torch.tensor([0.8, 1.2, 1.05], dtype=torch.float64).log().requires_grad_()
    found, _ = clamped_loss(logp, torch.zeros(3).double(), torch.full((3,), advantage).double(), 0.1)
    assert found.tolist() == pytest.approx([-advantage * r for r in (0.9, 1.1, 1.05)])
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert gradient.tolist() == pytest.approx([0.0, 0.0, -advantage * 1.05])


@pytest.mark.parametrize(
    ("advantage", "ratio", "gone", "loss", "slope"),
    [
        (1.0, 0.8, False, -0.8, -0.8),
        (1.0, 0.8, True, -0.8, -0.8),
        (1.0, 1.2, False, -1.2, -1.2),
        (1.0, 1.2, True, 0.0, 0.0),
        (-1.0, 0.8, False, 0.8, 0.8),
        (-1.0, 0.8, True, 0.0, 0.0),
        (-1.0, 1.2, False, 1.2, 1.2),
        (-1.0, 1.2, True, 1.2, 1.2),
    ],
)
def test_a_mask_by_divergence_stops_only_what_goes_further(
    advantage: float, ratio: float, gone: bool, loss: float, slope: float
) -> None:
    """Loss and slope, by the log-probability, are -A r, whatever the ratio; outside of the region both are 0 where
    ascent would lead further out: a likelier move that was good, a less likely one that was bad.
    """
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found, r = masked_loss(logp, torch.zeros(1).double(), torch.tensor([advantage]).double(), torch.tensor([gone]))
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert (found.item(), r.item(), gradient.item()) == pytest.approx((loss, ratio, slope))


def test_at_the_rollouts_weights_the_gradient_is_reinforces() -> None:
    """d loss / d mean = -A d log p / d mean, where the ratio is one."""
    x, mean = random(4, 1, 2, 2), random(4, 1, 2, 2, seed=1).requires_grad_()
    std, A = torch.full((4,), 0.5).double(), torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    logp = log_prob(x, mean, std)
    loss, ratio = clipped_loss(logp, logp.detach(), A, 1e-4)
    (gradient,) = torch.autograd.grad(loss.sum(), mean, retain_graph=True)
    (expected,) = torch.autograd.grad(-(A * logp).sum(), mean)
    torch.testing.assert_close(gradient, expected)
    assert torch.equal(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("baseline", [0.0, 0.74])
def test_the_score_function_identity(baseline: float) -> None:
    """x ~ N(0.7, 0.5), r = x^2: the mean of r is 0.7^2 + 0.5^2, its derivative by the mean 2 * 0.7 = 1.4, which the
    mean of (r - baseline) d log p / d mean is too, whatever the baseline. By Gauss-Hermite quadrature of 40 nodes.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x = torch.from_numpy(0.7 + 0.5 * nodes).view(-1, 1, 1, 1)
    mean = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logp = log_prob(x, mean.expand(40, 1, 1, 1), torch.full((40,), 0.5).double())
    weight = torch.from_numpy(weights / weights.sum())
    (gradient,) = torch.autograd.grad((weight * (x.flatten() ** 2 - baseline) * logp).sum(), mean)
    assert gradient.item() == pytest.approx(1.4)


def test_gradients_in_float64() -> None:
    x, std = random(2, 1, 2, 2), torch.tensor([0.4, 0.7]).double()
    mean, other = random(2, 1, 2, 2, seed=1).requires_grad_(), random(2, 1, 2, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: log_prob(x, m, std), mean)
    assert torch.autograd.gradcheck(lambda m, o: gaussian_kl(m, o, std), (mean, other))
    logp, A = torch.tensor([0.02, -0.3, 0.3]).double().requires_grad_(), torch.tensor([1.0, -1.0, 1.0]).double()
    gone = torch.tensor([True, False, True])
    for loss, region in ((clipped_loss, 0.1), (clamped_loss, 0.1), (masked_loss, gone)):
        assert torch.autograd.gradcheck(lambda p, f=loss, r=region: f(p, torch.zeros(3).double(), A, r)[0], logp)


def of(rewards: list[float], groups: list[int], kind: Any, clip: float = 5.0, ddof: int = 0) -> list[float]:
    return advantages(torch.tensor(rewards), torch.tensor(groups), kind, clip, ddof).tolist()


def test_advantages_by_hand() -> None:
    """1, 2, 3: mean 2, deviation sqrt(2 / 3) or, dividing by n - 1, 1: +-sqrt(3 / 2) = 1.2247449 or +-1."""
    for kind in ("batch", "group", "group_mean"):
        assert of([1, 2, 3], [0, 0, 0], kind) == pytest.approx([-1.2247449, 0, 1.2247449], abs=2e-6)
    assert of([1, 2, 3], [0, 0, 0], "group", ddof=1) == pytest.approx([-1, 0, 1], abs=2e-6)


def test_advantages_by_group() -> None:
    """Groups 0, 2 and 10, 14. By group each is +-1. All: mean 6.5, deviation sqrt((6.5^2 + 4.5^2 + 3.5^2 + 7.5^2) / 4)
    = sqrt(32.75); centred by the group and divided by that, -1, 1, -2, 2 over it.
    """
    rewards, groups = [0.0, 10.0, 2.0, 14.0], [7, 3, 7, 3]
    assert of(rewards, groups, "group") == pytest.approx([-1, -1, 1, 1], abs=2e-6)
    root = math.sqrt(32.75)
    assert of(rewards, groups, "group_mean") == pytest.approx([v / root for v in (-1, -2, 1, 2)], abs=2e-6)
    assert of(rewards, groups, "batch") == pytest.approx([v / root for v in (-6.5, 3.5, -4.5, 7.5)], abs=2e-6)


@pytest.mark.parametrize("kind", ["batch", "group", "group_mean"])
def test_equal_rewards_have_no_advantage_to_the_bit(kind: Any) -> None:
    """0.1 + 0.1 + 0.1 divided by 3 isn't 0.1; nor is a group of one sample better than itself."""
    assert of([0.1] * 3, [0] * 3, kind) == [0.0] * 3
    if kind != "batch":
        assert of([0.1, 0.1, 0.1, 5.0], [0, 0, 0, 1], kind) == [0.0] * 4
        assert of([1.0, 2.0], [0, 1], kind, ddof=1) == [0.0] * 2


@pytest.mark.parametrize("kind", ["batch", "group", "group_mean"])
def test_a_reward_that_is_missing_counts_for_nothing(kind: Any) -> None:
    without = of([1, 2, 3], [0, 0, 0], kind)
    assert of([1, nan, 2, 3], [0, 0, 0, 0], kind) == [without[0], 0.0, *without[1:]]
    assert of([nan, nan], [0, 1], kind) == [0.0, 0.0]


def test_advantages_are_cut() -> None:
    """One of a hundred: 99 / sqrt(99) = 9.95 deviations above the mean."""
    assert of([0.0] * 99 + [1.0], [0] * 100, "batch")[-1] == 5.0
    assert of([0.0] * 99 + [1.0], [0] * 100, "batch", clip=20.0)[-1] == pytest.approx(math.sqrt(99), rel=1e-4)


def test_history_by_hand() -> None:
    """15 rewards of a prompt are fewer than 16: the batch's statistics; with the 16th its own; the oldest goes."""
    values, counts = torch.zeros(2, 16).double(), torch.tensor([14, 0])
    values[0, :14] = torch.arange(14)
    batch, prompts = torch.tensor([14.0, 100.0]), torch.tensor([0, 1])
    found, values, counts = history_advantages(batch, prompts, values, counts, 16, 5.0)
    assert found.tolist() == pytest.approx([-1, 1], abs=1e-6)  # of 14 and 100: mean 57, deviation 43
    assert counts.tolist() == [15, 1]
    found, values, counts = history_advantages(torch.tensor([15.0]), prompts[:1], values, counts, 16, 5.0)
    # 0..15: mean 7.5, variance (16^2 - 1) / 12 = 21.25
    assert found.tolist() == pytest.approx([7.5 / math.sqrt(21.25)], abs=1e-5)
    found, values, counts = history_advantages(torch.tensor([16.0, nan]), torch.tensor([0, 0]), values, counts, 16, 5.0)
    assert values[0].tolist() == list(range(1, 17)) and counts.tolist() == [16, 1]
    assert found.tolist() == pytest.approx([7.5 / math.sqrt(21.25), 0.0], abs=1e-5)


def test_history_changes_nothing_in_place() -> None:
    values, counts = torch.zeros(1, 4).double(), torch.tensor([0])
    history_advantages(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]), values, counts, 2, 5.0)
    assert values.abs().sum() == 0 and counts.tolist() == [0]
