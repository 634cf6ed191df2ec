"""Parts that methods share which learn from the policy's own pictures: a rollout, its rewards, what is logged of them.

Shapes: s pictures of a piece, S of a rollout over all ranks, R rewards, C latent channels, h w latent.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.core.errors import Outage, UserError
from diffalign.diffusion.policy_gradient import moments, standardised
from diffalign.diffusion.process import Denoise
from diffalign.diffusion.rollouts import Trajectory
from diffalign.methods.method import Context, Logs, Old
from diffalign.methods.pairwise import Stateless
from diffalign.rollouts.slots import Slot
from diffalign.rollouts.source import RolloutSource

if TYPE_CHECKING:
    from diffalign.config.rollout import Rolled


@dataclass(frozen=True)
class Piece:
    """What a rank made in one forward's worth of slots."""

    slots: list[Slot]
    trajectory: Trajectory


@dataclass(frozen=True)
class Played:
    """A whole rollout: this rank's pieces by update, and all ranks' rewards."""

    number: int
    updates: list[list[Piece]]
    rewards: Tensor
    """[S, R], float64, in the order of slots; NaN where one couldn't score."""
    prompts: Tensor
    """[S], the row of each picture's prompt."""
    groups: Tensor
    """[S], the number of each picture's group."""


@dataclass(frozen=True)
class Spread:
    """What a rollout's rewards look like, for the log."""

    means: dict[str, Tensor]
    deviation: Tensor
    dropped: Tensor
    """The share of pictures that couldn't be scored."""
    constant: Tensor
    """The share of pictures whose group has one and the same reward, so that it teaches nothing."""


@dataclass
class RolledMethod(Stateless):
    """Rolls the policy out once for `updates` steps; a subclass makes batches and the loss of what came out.

    With several updates the weights at the rollout's start are kept (`old`), so that a training that goes on amid them
    rolls out the same again.
    """

    source: RolloutSource
    old: Old | None
    played: Played | None = field(default=None, init=False)
    spread: Spread | None = field(default=None, init=False)
    """Of the rewards of the rollout at hand."""
    amid: bool = field(default=False, init=False)
    """Whether the rollout at hand has updates to come."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Forgets the rollout at hand."""
        self.played, self.amid = None, False

    def rolled(self, policy: Denoise, step: int) -> tuple[Played, int]:
        """Returns the rollout that an optimizer step trains on, made anew where it must be, and the step's update."""
        number, update = divmod(step, self.source.places.updates)
        self.amid = update + 1 < self.source.places.updates
        played = self.played
        if played is None or played.number != number:
            weights: AbstractContextManager[None] = nullcontext()
            if self.old is not None and update == 0:
                self.old.keep()
            elif self.old is not None:  # a training that goes on amid a rollout's updates
                weights = self.old.put_back()
            played = self.roll(policy, number, weights)
        return played, update

    def roll(self, policy: Denoise, number: int, weights: AbstractContextManager[None]) -> Played:
        """Rolls out anew with some weights of the policy, and computes what is to be known of it."""
        with weights:
            self.played = play(self.source, policy, number)
        self.spread = spread(self.source, self.played.rewards, self.played.groups)
        self.began(self.played)
        return self.played

    def began(self, played: Played) -> None:
        """Computes what is to be known of a new rollout."""

    def pictures(self, count: float, log: bool) -> Logs:
        """Returns what is logged of the rollout's rewards, for a micro-batch that stands for so many pictures."""
        return logged(self.spread, count, self.source.device) if log and self.spread is not None else {}


def opened(settings: "Rolled", context: Context) -> tuple[RolloutSource, Old | None]:
    """Returns the source of rollouts, and the old weights where a rollout is trained on more than once."""
    source = context.source(RolloutSource)
    return source, context.old() if settings.rollout.updates > 1 else None


def play(source: RolloutSource, policy: Denoise, number: int) -> Played:
    """Rolls a policy out for this rank's slots of all updates of a rollout, and gathers all ranks' rewards."""
    updates, scores = [], []
    for update in range(source.places.updates):
        made = [Piece(slots, source.roll(policy, slots, number)) for slots in source.pieces(number, update)]
        with torch.no_grad():
            scores += [source.rewards(source.pictures(one.trajectory.states[-1]), one.slots) for one in made]
        updates.append(made)
    pieces = [one.slots for made in updates for one in made]
    every = [source.places.slot(number, i) for i in range(source.places.updates * source.batch_size)]
    return Played(
        number,
        updates,
        gathered(source, torch.cat(scores), pieces),
        torch.tensor([slot.prompt for slot in every]),
        torch.tensor([slot.group for slot in every]),
    )


def gathered(source: RolloutSource, scores: Tensor, pieces: Sequence[Sequence[Slot]]) -> Tensor:
    """Returns all ranks' scores [S, R] on the CPU, NaN where one is missing; their sum doesn't depend on the ranks.

    Raises UserError where not one picture has all its rewards: there is nothing to learn from then. It's an Outage
    where all that have scored nothing ask a service: that may answer another time.
    """
    known = source.gathered((~scores.isnan()).double(), pieces)
    values = source.gathered(scores.nan_to_num(0.0), pieces)
    found = torch.where(known > 0, values, torch.full_like(values, torch.nan)).cpu()
    if not bool((~found.isnan()).all(dim=1).any()):
        silent = [name for name, one in zip(source.scorers, found.unbind(1), strict=True) if bool(one.isnan().all())]
        outage = bool(silent) and all(getattr(source.scorers[name], "service", False) for name in silent)
        raise (Outage if outage else UserError)(
            f"rewards of the policy's own pictures ({', '.join(silent or source.scorers)}): expected scores, found "
            f"none for {len(found)} pictures. Does the reward know such prompts, and does its service answer? The same "
            "command goes on from the last checkpoint."
        )
    return found


def weighted(rewards: Tensor, weights: Tensor) -> Tensor:
    """Returns the sum [S] of weighted rewards [S, R], each in its own unit; NaN where one is missing."""
    return (rewards * weights).sum(dim=1)


def combined(rewards: Tensor, weights: Tensor) -> Tensor:
    """Returns the total [S] by which a rollout's pictures are compared, of rewards [S, R]; NaN where one is missing.

    Several rewards are standardised over the rollout's pictures that have all of them, then weighted and added, so that
    none rules by its unit; one that is equal for all pictures counts 0. One reward alone stays in its unit: advantages
    and comparisons don't depend on it.
    """
    if rewards.shape[1] == 1:
        return weighted(rewards, weights)
    known = ~rewards.isnan().any(dim=1)
    alike = torch.full_like(rewards, torch.nan)
    alike[known] = torch.stack([standardised(one, *moments(one, 0)) for one in rewards[known].unbind(1)], dim=1)
    return weighted(alike, weights)


def spread(source: RolloutSource, rewards: Tensor, groups: Tensor) -> Spread:
    """Describes rewards [S, R] of pictures whose groups are [S]."""
    total = weighted(rewards, source.weights)
    known = ~total.isnan()
    equal = torch.zeros(len(total))
    for group in groups.unique():
        of_group = groups == group
        values = total[of_group & known]
        equal[of_group] = float(len(values) > 0 and bool((values == values[0]).all()))
    return Spread(
        {name: nanmean(column) for name, column in zip(source.scorers, rewards.unbind(1), strict=True)},
        total[known].std(correction=0).float(),
        1 - known.float().mean(),
        equal.mean(),
    )


def nanmean(values: Tensor) -> Tensor:
    """Returns the mean of values [S] that aren't NaN, float32; NaN without any."""
    return values[~values.isnan()].mean().float()


def logged(found: Spread, share: float, device: torch.device) -> dict[str, Tensor]:
    """Returns what is logged of a rollout's rewards, as a micro-batch's sum: times `share`, its number of pictures."""
    figures = {f"reward_{name}": mean for name, mean in found.means.items()}
    figures |= {"reward_std": found.deviation, "dropped": found.dropped, "constant": found.constant}
    return {name: (value * share).to(device) for name, value in figures.items()}
