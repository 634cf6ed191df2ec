"""Losses of finished pictures, by hand: DiffusionNFT's gradient, its probabilities, the old policy's schedule."""

import math

import pytest
import torch

from diffalign.diffusion.forward_losses import diffusion_nft, extremes, goodness, old_share

OLD, TARGET = torch.tensor([[1.0, 0.5], [0.3, -0.2]], dtype=torch.float64)


def latents(*rows: torch.Tensor) -> torch.Tensor:
    return torch.stack(rows).view(len(rows), 1, 1, 2)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_nfts_gradient_at_the_old_policy(beta: float) -> None:
    """2 (2 r - 1) (old - target) for the sum of squares; here the mean over 2, divided by the mean size, 0.7."""
    good = torch.tensor([1.0, 0.75, 0.5, 0.0]).double()
    output = latents(*[OLD] * 4).requires_grad_()
    loss = diffusion_nft(output, latents(*[OLD] * 4), latents(*[TARGET] * 4), good, beta)
    loss.sum().backward()
    expected = torch.tensor([[1.4, 1.4], [0.7, 0.7], [0.0, 0.0], [-1.4, -1.4]]).double() / 2 / 0.7
    torch.testing.assert_close(output.grad.view(4, 2), expected)
    torch.testing.assert_close(loss, torch.full((4,), 0.49 / 0.7 / beta).double())


def test_nft_by_hand_away_from_the_old_policy() -> None:
    """beta 1/2, o = (2, 0.5): o+ = (1.5, 0.5), o- = (0.5, 0.5); errors (1.2, 0.7) and (0.2, 0.7).

    E+ = (1.44 + 0.49) / 2 = 0.965, w+ = 0.95; E- = (0.04 + 0.49) / 2 = 0.265, w- = 0.45.
    """
    output, good = latents(torch.tensor([2.0, 0.5]).double()), torch.tensor([0.75]).double()
    found = diffusion_nft(output, latents(OLD), latents(TARGET), good, 0.5)
    assert found.item() == pytest.approx((0.75 * 0.965 / 0.95 + 0.25 * 0.265 / 0.45) / 0.5, rel=1e-12)


def test_nft_has_no_gradient_through_the_old_policy_and_its_own_scales() -> None:
    """Against finite differences of the loss with the scales kept as they are at the point."""
    rng = torch.Generator().manual_seed(0)
    output, old, target = (torch.randn(3, 2, 2, 2, generator=rng, dtype=torch.float64) for _ in range(3))
    good, beta = torch.tensor([0.9, 0.5, 0.2]).double(), 0.4
    output.requires_grad_(), old.requires_grad_()
    (found,) = torch.autograd.grad(diffusion_nft(output, old, target, good, beta).sum(), output)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(diffusion_nft(output, old, target, good, beta).sum(), old)
    with torch.no_grad():
        expected = torch.zeros_like(output)
        for sign, weight in ((1, good), (-1, 1 - good)):
            error = old + sign * beta * (output - old) - target
            scale = error.abs().mean(dim=(1, 2, 3), keepdim=True)
            expected += weight.view(-1, 1, 1, 1) * sign * 2 * error / scale / 8
    torch.testing.assert_close(found, expected)


def test_rewards_become_probabilities() -> None:
    found = goodness(torch.tensor([-9.0, -5.0, -2.5, 0.0, 1.0, 5.0, 7.0]), 5.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.25, 0.5, 0.6, 1.0, 1.0]))


def test_the_old_policys_schedule() -> None:
    """The authors' two: at once and to a half; from 75 on and to 0.999."""
    assert [old_share(n, 0, 0.001, 0.5) for n in (0, 1, 250, 500, 900)] == pytest.approx([0, 0.001, 0.25, 0.5, 0.5])
    assert [old_share(n, 75, 0.0075, 0.999) for n in (1, 75, 76, 208, 300)] == pytest.approx(
        [0, 0, 0.0075, 0.9975, 0.999]
    )


def test_the_best_and_the_worst_of_each_group() -> None:
    """Groups 0: plain; 1: one without a score; 2: all equal; 3: one score only; 4: none."""
    nan = math.nan
    rewards = torch.tensor([1, 3, 2, nan, 5, 4, 7, 7, 7, nan, nan, 2, nan, nan, nan]).double()
    best, worst, differ = extremes(rewards, torch.arange(5).repeat_interleave(3))
    assert differ.tolist() == [True, True, False, False, False]
    assert best[:4].tolist() == [1, 4, 6, 11] and worst[:4].tolist() == [0, 5, 6, 11]
