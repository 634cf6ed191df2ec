"""The best of n: as many images from noise of their own, of which the one with the highest reward is kept."""

from dataclasses import dataclass

import torch

from diffalign.generation.pipeline import Chain
from diffalign.generation.rules.rule import Found, Looked, Score, Starts, begun, scored, unseen


@dataclass(frozen=True)
class BestOf:
    """Takes `n` images each time; the first is the one without the rule."""

    n: int

    @property
    def looks(self) -> int:
        """Returns n."""
        return self.n

    @torch.no_grad()
    def __call__(self, chain: Chain, starts: Starts, score: Score, looked: Looked = unseen) -> Found:
        """Makes the images; where none of an image's n could be scored, it is the first."""
        found: Found | None = None
        for attempt in range(self.n):
            pixels = chain.pictures(starts.noise(attempt), starts.added(attempt))
            scores = scored(score, pixels, starts.prompts)
            if found is None:
                found = begun(pixels, scores)
            else:
                found.improve(attempt, pixels, scores)
            looked()
        assert found is not None
        return found


build = BestOf
