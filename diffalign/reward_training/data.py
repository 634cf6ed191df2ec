"""What a reward model learns from, and what it's validated on: comparisons, their images and tokens.

Only the train and the validation split are read. Legend: B preferences, S side of the squares, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffalign.config.pairs import Pairs
from diffalign.config.reward_models import RewardModel
from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair, held_out_pairs
from diffalign.data.batches.preferences import Preference, make_preferences
from diffalign.data.comparisons import table as comparisons
from diffalign.reward_training import squares
from diffalign.reward_training.scorer import Scorer
from diffalign.reward_training.squares import Squares


@dataclass(frozen=True)
class Batch:
    """Preferences as tensors: pixels [B, 3, S, S] of both images, tokens [B, L], shares and weights [B]."""

    first: Tensor
    second: Tensor
    tokens: Tensor
    share: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Data:
    """Everything that training reads."""

    preferences: list[Preference]
    held_out: list[Pair]
    images: Squares
    prompts: dict[str, int]
    """The row of each prompt's tokens."""
    tokens: Tensor

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns some preferences as tensors on the CPU."""
        chosen = [self.preferences[i] for i in indices]
        return Batch(
            first=self.images.pixels([one.first for one in chosen]),
            second=self.images.pixels([one.second for one in chosen]),
            tokens=self.tokens_of([one.prompt for one in chosen]),
            share=torch.tensor([one.share for one in chosen]),
            weight=torch.tensor([one.weight for one in chosen]),
        )

    def tokens_of(self, prompts: Sequence[str]) -> Tensor:
        """Returns the tokens [B, L] of some prompts."""
        return self.tokens[[self.prompts[prompt] for prompt in prompts]]


def read(
    name: str, settings: RewardModel, pairs: Pairs, folder: Path, scorer: Scorer, work: Path, max_pixels: int
) -> Data:
    """Reads comparisons, makes squares of their images in the work folder, and tokens of their prompts.

    Raises UserError where the train split has nothing to learn from.
    """
    table = comparisons.read(folder)
    preferences = make_preferences(
        table,
        "train",
        pairs.rule,
        pairs.raters,
        ties=settings.ties,
        by_prompt="prompt" in settings.weights,
        flagged=pairs.flagged,
        axes=pairs.axes,
        sources=pairs.sources,
    )
    if all(one.share == 0.5 for one in preferences):
        raise UserError(
            f"reward_models.{name}: {folder} has no untied comparison in the train split: nothing to learn from. See "
            "metrics/ingest.json for what became of the rows."
        )
    held_out = held_out_pairs(table, "validation", pairs.rule, pairs.raters, pairs.axes)[: settings.validation_pairs]
    shown = [image for one in preferences for image in (one.first, one.second)]
    shown += [image for pair in held_out for image in (pair.image_w, pair.image_l)]
    texts = sorted({one.prompt for one in preferences} | {pair.prompt for pair in held_out})
    return Data(
        preferences=preferences,
        held_out=held_out,
        images=squares.make(folder, shown, scorer.side, work, max_pixels),
        prompts={prompt: row for row, prompt in enumerate(texts)},
        tokens=scorer.tokens(texts),
    )


def indices(seed: int, step: int, batch_size: int, count: int) -> list[int]:
    """Returns the preferences of a step's batch: every epoch is a permutation, epochs follow without a gap."""
    places = [divmod(step * batch_size + slot, count) for slot in range(batch_size)]
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(count) for epoch in {e for e, _ in places}}
    return [int(orders[epoch][position]) for epoch, position in places]
