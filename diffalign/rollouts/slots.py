"""The places of a rollout's pictures: which prompt, which noise, which process makes them.

Slots 0..U*B-1 of a rollout: U updates, each a global batch of B pictures. All is a function of the seed, the number of
the rollout and the slot, whatever processes and micro-batches there are.
"""

from dataclasses import dataclass

from torch import Tensor

from diffalign.diffusion.rng import (
    ROLLOUT,
    ROLLOUT_PROMPT,
    ROLLOUT_STEP,
    TRAINED_MOVES,
    generator,
    normal,
)


@dataclass(frozen=True)
class Slot:
    """One picture of a rollout."""

    index: int
    """Its number in the rollout; that in its update's global batch is `index % B`."""
    prompt: int
    """The row of its prompt among the source's texts."""
    group: int
    """The number of its prompt's group in the rollout: the pictures of one group have one prompt."""


@dataclass(frozen=True)
class Places:
    """Says what is in the slots of every rollout, and which of them belong to a process."""

    seed: int
    prompts: int
    """The number of prompts there are."""
    batch_size: int
    per_prompt: int
    updates: int
    micro_batch_size: int
    shared_noise: bool
    rank: int
    world: int

    def pieces(self, rollout: int, update: int) -> list[list[Slot]]:
        """Returns a rank's slots of an update, in pieces of `micro_batch_size` at most.

        Pieces begin at multiples of it in the global batch, so that one process and several compute the same shapes
        where their shares are multiples of it.
        """
        share = self.batch_size // self.world
        mine = range(self.rank * share, (self.rank + 1) * share)
        cuts = sorted({mine.start, mine.stop, *(i for i in mine if i % self.micro_batch_size == 0)})
        return [
            [self.slot(rollout, update * self.batch_size + i) for i in range(low, high)]
            for low, high in zip(cuts, cuts[1:], strict=False)
        ]

    def slot(self, rollout: int, index: int) -> Slot:
        """Returns a slot: groups of pictures go through the prompts, in a new order each time."""
        group = index // self.per_prompt
        groups = self.updates * self.batch_size // self.per_prompt
        time, place = divmod(rollout * groups + group, self.prompts)
        order = generator(ROLLOUT_PROMPT, self.seed, time).permutation(self.prompts)
        return Slot(index, int(order[place]), group)

    def start(self, rollout: int, slot: Slot, shape: tuple[int, ...]) -> Tensor:
        """Returns the unit noise [C, h, w] that a picture begins with."""
        where = (1, slot.group) if self.shared_noise else (0, slot.index)
        return normal(generator(ROLLOUT, self.seed, rollout, *where), shape)

    def added(self, rollout: int, slot: Slot, step: int, shape: tuple[int, ...]) -> Tensor:
        """Returns the unit noise [C, h, w] that a step adds."""
        return normal(generator(ROLLOUT_STEP, self.seed, rollout, slot.index, step), shape)

    def chosen(self, rollout: int, slot: Slot, moves: list[int], count: int) -> list[int]:
        """Draws `count` of a rollout's moves that a picture trains on, in their order."""
        drawn = generator(TRAINED_MOVES, self.seed, rollout, slot.index).permutation(len(moves))[:count]
        return sorted(moves[i] for i in drawn)
