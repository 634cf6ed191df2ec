"""Computes the terms of policy gradients through a sampler's Gaussian moves: pure functions of tensors.

A move goes from x_t to x' ~ N(mean, std^2), the mean linear in the network's output (`process.transition`).
Log-probabilities and divergences are the MEAN over C, h, w, not the sum: a ratio of sums over 16,384 elements explodes,
and published settings (a clip range of 1e-4 among them) belong to means.
Shapes: B moves, S samples, C latent channels, h w latent height and width.
"""

import math
from typing import Literal

import torch
from torch import Tensor

LEAST_STD = 1e-3
"""Moves with a smaller standard deviation aren't trained: their log-probability is nearly infinite, or is so."""
EPSILON = 1e-6
"""Added to standard deviations of rewards."""

Kind = Literal["batch", "group", "group_mean"]


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns the log-probability [B], float32 or wider, of x [B, C, h, w] under N(mean, std^2), std [B].

    The mean over C, h, w of -(x - mean)^2 / (2 std^2) - ln std - ln(2 pi) / 2 (Black et al. 2023, arXiv 2305.13301).
    x is data: no gradient goes into it.
    """
    x, mean, std = x.detach(), wide(mean), wide(std)
    squares = ((x - mean) ** 2).flatten(1).mean(1)
    return -squares / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: Tensor) -> Tensor:
    """Returns KL(N(mean, std^2) || N(mean_ref, std^2)) [B], the mean over C, h, w; std [B].

    It is (mean - mean_ref)^2 / (2 std^2), or (b / std)^2 / 2 times the squared difference of the outputs.
    """
    squares = ((wide(mean) - wide(mean_ref)) ** 2).flatten(1).mean(1)
    return squares / (2 * wide(std) ** 2)


def clipped_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Returns PPO's loss [B] and the ratios [B] (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    max(-A r, -A clip(r, 1 - clip, 1 + clip)) with r = exp(log_probs - old): a move that has gone too far the right
    way has no gradient, one that has gone the wrong way keeps it. `old` and A are data.
    """
    ratio = torch.exp(log_probs - old.detach())
    advantages = advantages.detach()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)), ratio


def clamped_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Returns -A clamp(r, 1 - clip, 1 + clip) [B] and the ratios r [B]: the loss of DPOK's and D3PO's code.

    Outside of the range there is no gradient, whichever way the move has gone.
    """
    ratio = torch.exp(log_probs - old.detach())
    return -advantages.detach() * ratio.clamp(1 - clip, 1 + clip), ratio


def masked_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Returns -A r [B] and the ratios r [B], 0 where a move has `gone` too far the right way (arXiv 2606.11025).

    `gone` [B] says which means have left the trust region; those that a step brings back train on: A > 0 with r <= 1,
    A < 0 with r >= 1.
    """
    ratio, advantages = torch.exp(log_probs - old.detach()), advantages.detach()
    further = ((advantages > 0) & (ratio > 1)) | ((advantages < 0) & (ratio < 1))
    return torch.where(gone & further, torch.zeros_like(ratio), -advantages * ratio), ratio


def advantages(rewards: Tensor, groups: Tensor, kind: Kind, clip: float, ddof: int = 0) -> Tensor:
    """Returns advantages [S], float64, of rewards [S]: centred, divided by a standard deviation, cut to +-clip.

    `groups` [S] are integers: the samples of one prompt have one. `kind`: batch, by all samples; group, by the
    sample's own group (Shao et al. 2024, arXiv 2402.03300); group_mean, centred by the group, divided by the deviation
    of all (Flow-GRPO's). Deviations divide by n - ddof. Samples of equal rewards have advantage 0 exactly; a NaN
    reward, of a sample that couldn't be scored, is left out of the statistics and has advantage 0.
    """
    rewards = rewards.detach().double()
    known = ~rewards.isnan()
    result = torch.zeros_like(rewards)
    _, whole = moments(rewards[known], ddof)
    for group in [known] if kind == "batch" else [known & (groups == name) for name in groups.unique()]:
        mean, std = moments(rewards[group], ddof)
        result[group] = standardised(rewards[group], mean, whole if kind == "group_mean" else std)
    return result.clamp(-clip, clip)


def history_advantages(
    rewards: Tensor, prompts: Tensor, values: Tensor, counts: Tensor, least: int, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns advantages [S] by each prompt's latest rewards, and the new (values, counts) (Black et al. 2023).

    `prompts` [S] are rows of `values` [P, N], float64, which keeps the last N rewards of each prompt, the oldest
    first, and of `counts` [P], how many there are. The new rewards count. A prompt with fewer than `least` rewards
    has the statistics of this batch. NaN rewards aren't kept and have advantage 0.
    """
    rewards, values, counts = rewards.detach().double(), values.clone(), counts.clone()
    known = ~rewards.isnan()
    result = torch.zeros_like(rewards)
    for prompt in prompts[known].unique():
        chosen = known & (prompts == prompt)
        kept = torch.cat([values[prompt, : counts[prompt]], rewards[chosen]])[-values.shape[1] :]
        values[prompt, : len(kept)], counts[prompt] = kept, len(kept)
        mean, std = moments(kept if len(kept) >= least else rewards[known], 0)
        result[chosen] = standardised(rewards[chosen], mean, std)
    return result.clamp(-clip, clip), values, counts


def moments(rewards: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of rewards [N]; a deviation of 0 where N is at most ddof."""
    if len(rewards) <= ddof:
        return rewards.sum() / max(len(rewards), 1), rewards.new_zeros(())
    return rewards.mean(), rewards.std(correction=ddof)


def standardised(rewards: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (rewards - mean) / (std + EPSILON); zeros where all rewards are equal, whatever rounding says."""
    equal = bool((rewards == rewards[:1]).all())
    if len(rewards) == 0 or (equal and bool((mean - rewards[:1]).abs() <= 1e-12 * rewards[:1].abs())):
        return torch.zeros_like(rewards)
    return (rewards - mean) / (std + EPSILON)


def wide(value: Tensor) -> Tensor:
    """Returns a tensor in float32, or in float64 where it is that."""
    return value if value.dtype == torch.float64 else value.float()
