"""How often a reward model ranks held-out pairs as their raters did."""

from collections.abc import Iterator, Sequence

import torch

from diffalign.evaluation.statistics import outcomes, rate
from diffalign.reward_training import objective
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
        return Accuracy(accuracy=None, ci_low=None, ci_high=None, loss=None, pairs=0)
    prompts = [pair.prompt for pair in pairs]
    texts = torch.cat([scorer.texts(data.tokens_of(part)) for part in pieces(prompts, size)])
    first, second = (
        torch.cat([scorer.images(data.images.pixels(part)) for part in pieces(names, size)])
        for names in ([pair.image_w for pair in pairs], [pair.image_l for pair in pairs])
    )
    winner, loser = (objective.scores(images, texts, scorer.model.logit_scale) for images in (first, second))
    loss = objective.preference_loss(winner, loser, torch.ones_like(winner)).mean()
    found = rate(outcomes(winner.tolist(), loser.tolist()), prompts, resamples=RESAMPLES)
    return Accuracy(accuracy=found.rate, ci_low=found.low, ci_high=found.high, loss=float(loss), pairs=len(pairs))


def pieces(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yields values in pieces of `size`, the last maybe smaller."""
    return (values[start : start + size] for start in range(0, len(values), size))
