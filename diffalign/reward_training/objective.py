"""PickScore's objective, as pure functions of scores (Kirstain et al. 2023, arXiv 2305.01569, section 3).

Legend: B preferences, D width of the embeddings.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def scores(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Returns exp(logit_scale) · cosine [B] of images with their prompts, embeddings [B, D] of length 1."""
    return logit_scale.exp() * (images * texts).sum(dim=1)


def preference_loss(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Returns the cross-entropy [B] of people's answers with the softmax over two images' scores, each [B].

    `share` [B] in [0, 1] is that of the votes for the first image: 1, 0, or 1/2 for a tie. The softmax over two is
    σ(first - second). Its least value is the entropy of the answers, ln 2 for a tie.
    """
    margin = first - second
    return -(share * logsigmoid(margin) + (1 - share) * logsigmoid(-margin))


def correct(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Returns 1 where the scores rank two images as most votes do, 1/2 where they are equal, 0; NaN for a tie [B]."""
    agrees = 0.5 + 0.5 * torch.sign(first - second) * torch.sign(share - 0.5)
    return torch.where(share == 0.5, torch.nan, agrees)


def learning_rate(step: int, peak: float, warmup: int, steps: int, schedule: str) -> float:
    """Returns the rate of a step, counted from 0: it rises linearly to `peak` in `warmup` steps.

    Then it stays (`constant`), or falls to 0 along a line that would end after the last step (`linear`).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak if schedule == "constant" else peak * (steps - step) / (steps - warmup)
