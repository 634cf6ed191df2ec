"""How often a reward model ranks held-out pairs as their raters did.

Legend: N images, D width of the embeddings.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffalign.evaluation.statistics import outcomes, rate
from diffalign.reward_training.data import Data
from diffalign.reward_training.scorer import Scorer
from diffalign.rewards.parts.card import Accuracy

RESAMPLES = 1000
"""Of the prompts, for the interval."""


@torch.no_grad()
def accuracy(scorer: Scorer, data: Data, size: int) -> Accuracy:
    """Returns the accuracy on the held-out pairs with its 95% interval over prompts; `size` images in a forward."""
    pairs = data.held_out
    if not pairs:
        return Accuracy(accuracy=None, ci_low=None, ci_high=None, pairs=0)
    prompts = [pair.prompt for pair in pairs]
    texts = torch.cat([scorer.texts(data.tokens_of(part)) for part in pieces(prompts, size)])
    first, second = (
        torch.cat([scorer.images(data.images.pixels(part)) for part in pieces(names, size)])
        for names in ([pair.image_w for pair in pairs], [pair.image_l for pair in pairs])
    )
    won = outcomes(cosines(first, texts), cosines(second, texts))
    found = rate(won, prompts, resamples=RESAMPLES)
    return Accuracy(accuracy=found.rate, ci_low=found.low, ci_high=found.high, pairs=len(pairs))


def cosines(images: Tensor, texts: Tensor) -> list[float]:
    """Returns the cosines [N] of embeddings [N, D] of length 1."""
    return (images * texts).sum(dim=1).double().tolist()


def pieces(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yields values in pieces of `size`, the last maybe smaller."""
    return (values[start : start + size] for start in range(0, len(values), size))
