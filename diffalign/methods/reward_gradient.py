"""Follows a reward's gradient through the moves that made the policy's own pictures: DRaFT and its kin, one class.

Shapes: s pictures of a piece, R rewards, C latent channels, h w latent.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffalign.config.methods.reward_gradient import Sees, Through
from diffalign.diffusion.policy_gradient import wide
from diffalign.diffusion.process import Denoise
from diffalign.diffusion.reward_gradients import Chain, Row, at_end, chain_of, estimated, pulled, renoised, sweep
from diffalign.diffusion.rng import RENOISE, WINDOW, generator, normal
from diffalign.diffusion.sampling import Output
from diffalign.methods.method import Context, Logs, Method
from diffalign.methods.rolled import RolledMethod, gathered, logged, spread
from diffalign.reference.reference import Reference, predictions
from diffalign.rollouts.slots import Slot
from diffalign.rollouts.source import RolloutSource

if TYPE_CHECKING:
    from diffalign.config.methods.reward_gradient import RewardGradient


@dataclass(frozen=True)
class Window:
    """Which moves of a rollout train in one optimizer step, and where what the reward sees lies."""

    stop: int
    """The number of moves that lead to what the reward sees."""
    trained: Collection[int]
    """The moves 0..stop-1 that train."""


Draw = Callable[[int, np.random.Generator], Window]
"""A function (moves of a rollout, generator) -> the window of an optimizer step."""


@dataclass(frozen=True)
class How:
    """What differs between the methods."""

    draw: Draw
    through: Through
    sees: Sees
    renoise: int = 0


@dataclass(frozen=True)
class Rows:
    """A move of each picture of a piece: they train in one forward."""

    slots: Sequence[Slot]
    row: Row
    share: float
    """What a row counts of its picture: 1 / its rows."""
    losses: Tensor
    """The sum of the pictures' losses, a scalar, in a piece's first rows; 0 in its others."""
    logs: Logs


@dataclass(frozen=True)
class Swept:
    """What one chain of a piece's pictures gave."""

    rows: list[Row]
    losses: Tensor
    """[s], float64; NaN of pictures that are left out."""
    rewards: Tensor
    """[s, R], float64; NaN of pictures that are left out."""
    norms: Logs
    """Sums over the pictures of the gradient's norm at the end, and at the first state that trains."""


@dataclass
class GradientMethod(RolledMethod):
    """Minimises -r, or relu(hinge - r), of the policy's pictures by the gradient of the chain that made them.

    A step rolls out without gradients, sweeps the reward's gradient back (`diffusion.reward_gradients`), and trains on
    the window's moves. The sweep's forwards exchange no gradients, and are as many on every process.
    """

    how: How
    settings: "RewardGradient"

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[Rows]:
        """Yields the moves that train in a step, piece by piece; the last piece's logs are of all ranks' pictures."""
        window = self.how.draw(self.source.steps, generator(WINDOW, self.source.places.seed, step))
        pieces = self.source.pieces(step, 0)
        rewards = []
        for number, slots in enumerate(pieces, 1):
            found = list(self.swept(policy, slots, step, window))
            rewards.append(torch.stack([one.rewards for one in found]).mean(0))
            logs = mean([one.norms for one in found])
            logs["moves"] = torch.tensor(float(len(slots) * len(window.trained)), device=self.source.device)
            if number == len(pieces):
                logs |= self.described(torch.cat(rewards), pieces, step)
            yield from micro_batches(slots, found, logs)

    def swept(self, policy: Denoise, slots: Sequence[Slot], step: int, window: Window) -> Iterator[Swept]:
        """Yields what a piece's rollout gave; noised again, what each of its endings gave."""
        output = self.source.output(policy, slots)
        rolled = chain_of(self.source.roll(policy, slots, step))
        with self.source.alone():
            if not self.how.renoise:
                yield self.of_chain(output, rolled, slots, window)
            for draw in range(self.how.renoise):
                count = len(window.trained)
                again = renoised(output, rolled, self.eps(slots, step, draw), count)
                yield self.of_chain(output, again, slots, Window(count, range(count)))

    def eps(self, slots: Sequence[Slot], step: int, draw: int) -> Tensor:
        """Returns the unit noise [s, C, h, w] by which a piece's pictures are noised again."""
        seed, shape = self.source.places.seed, self.source.shape
        noise = [normal(generator(RENOISE, seed, step, slot.index, draw), shape) for slot in slots]
        return torch.stack(noise).to(self.source.device)

    def of_chain(self, output: Output, chain: Chain, slots: Sequence[Slot], window: Window) -> Swept:
        """Scores what a chain leads to, and sweeps the gradient back over it."""
        if self.how.sees == "estimate":
            chain = estimated(output, chain, window.stop)
        scores = []

        def score(x0: Tensor) -> Tensor:
            scores.append(self.source.rewards(self.source.pictures(x0), slots))
            return (scores[0] * self.source.weights.to(x0.device)).sum(dim=1)

        losses, gradient = at_end(score, chain.states[-1], self.settings.hinge)
        found = sweep(output, chain, gradient, window.trained, self.how.through)
        rewards = scores[0].detach().where(losses.isfinite()[:, None], torch.nan)
        norms = {"gradient_end": norm(gradient), "gradient_begin": norm(found.gradient)}
        return Swept(found.rows, losses, rewards, norms)

    def described(self, rewards: Tensor, pieces: Sequence[Sequence[Slot]], step: int) -> Logs:
        """Returns what is logged of the whole batch's rewards; UserError where not one picture has any."""
        places = self.source.places
        groups = torch.tensor([places.slot(step, i).group for i in range(self.source.batch_size)])
        every = spread(self.source, gathered(self.source, rewards, pieces), groups)
        return logged(every, self.source.batch_size / places.world, self.source.device)

    def loss(self, policy: Denoise, reference: Reference | None, batch: Rows, log: bool) -> tuple[Tensor, Logs]:
        """Returns the pictures' losses, with the gradient of the chain's, plus the KL's mean over the rows."""
        row, weight = batch.row, self.settings.kl.weight
        if weight:  # first: a LoRA's adapters are off meanwhile
            frozen = predictions(reference, self.settings.method)
            output_ref = wide(self.source.output(frozen, batch.slots)(row.x_t, row.t))
        output = self.source.output(policy, batch.slots)(row.x_t, row.t)
        total, logs = pulled(output, row.pull).sum() + batch.losses, batch.logs
        if weight:
            kl = ((wide(output) - output_ref) ** 2).flatten(1).mean(1).sum() * batch.share
            total, logs = total + weight * kl, {**logs, "kl": kl.detach()}
        return total, logs


def micro_batches(slots: Sequence[Slot], found: Sequence[Swept], logs: Logs) -> Iterator[Rows]:
    """Yields the rows of a piece's chains, whose gradients are averaged; the first have the losses and the logs."""
    rows = [row for one in found for row in one.rows]
    losses = torch.stack([one.losses for one in found]).nan_to_num(0.0).mean(0).sum()
    for i, row in enumerate(rows):
        averaged = replace(row, pull=row.pull / len(found))
        first = i == 0
        yield Rows(slots, averaged, 1 / len(rows), losses if first else torch.zeros_like(losses), logs if first else {})


def mean(logs: Sequence[Logs]) -> Logs:
    """Returns the mean of each figure."""
    return {name: torch.stack([one[name] for one in logs]).mean() for name in logs[0]}


def norm(gradient: Tensor) -> Tensor:
    """Returns the sum over pictures of a gradient's [s, C, h, w] norm."""
    return gradient.flatten(1).norm(dim=1).sum()


def built(settings: "RewardGradient", context: Context, how: How) -> Method:
    """Builds a method on a run's prompts and rewards, by what differs between them."""
    return GradientMethod(context.source(RolloutSource), None, how, settings)
