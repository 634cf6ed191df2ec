"""Training on the policy's own finished pictures, noised afresh: what nft, online_dpo and raft share.

Shapes: n rows of a micro-batch, a picture at one noise level each; C latent channels, h w latent height and width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairBatch
from diffalign.diffusion.forward_losses import extremes
from diffalign.diffusion.process import Denoise
from diffalign.diffusion.rng import FRESH, generator, normal
from diffalign.diffusion.timesteps import Times
from diffalign.methods.method import Context, Old
from diffalign.methods.rolled import Played, RolledMethod, combined, opened
from diffalign.rollouts.slots import Slot
from diffalign.rollouts.source import RolloutSource

if TYPE_CHECKING:
    from diffalign.config.rollout import Renoised


@dataclass(frozen=True)
class Extremes:
    """The best and the worst pictures of n groups."""

    best: list[Slot]
    worst: list[Slot]
    x0_best: Tensor
    """[n, C, h, w]"""
    x0_worst: Tensor
    differ: Tensor
    """[n], 1, or 0 for a group whose rewards are all equal, or that has none."""


@dataclass
class RenoisedMethod(RolledMethod):
    """Draws noise and noise levels for finished pictures; a subclass says which pictures, and the loss."""

    settings: "Renoised"
    rewards: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    """[S], float64, what pictures of the rollout at hand are compared by (`combined`); NaN without rewards."""

    def began(self, played: Played) -> None:
        """Weighs and adds the rewards of a new rollout."""
        self.rewards = combined(played.rewards, self.source.weights)

    def finished(self, played: Played, update: int) -> dict[int, Tensor]:
        """Returns the latents [C, h, w] of this rank's finished pictures of an update, by their slots' numbers."""
        return {
            slot.index: x0
            for piece in played.updates[update]
            for slot, x0 in zip(piece.slots, piece.trajectory.states[-1], strict=True)
        }

    def noised(self, slots: Sequence[Slot], x0: Tensor, number: int, draw: int, grouped: bool = False) -> PairBatch:
        """Returns pictures [n, C, h, w] of n slots at their `draw`-th noise level, as a batch of winners.

        Draws are functions of the seed, the rollout's number, `draw` and the slot, or, where `grouped`, the slot's
        group: its pictures share them then. x0 may have the pictures of n slots twice, best and worst. With
        `stratified` the levels of an update are spread over as many parts of the schedule as there are draws. With
        `prompt_drop` a picture's prompt is the empty one.
        """
        how, process, places = self.settings, self.source.process, self.source.places
        units = places.batch_size // places.per_prompt if grouped else places.batch_size
        strata = units * how.draws if how.stratified else 0
        times = Times(process, *how.timesteps, how.timestep_density, strata)
        drawn = []
        for slot in slots:
            unit = slot.group if grouped else slot.index
            rng = generator(FRESH, how.seed, number, draw, int(grouped), unit)
            t = times.draw(rng, unit % units + units * draw)
            drawn.append((t, bool(rng.random() < how.prompt_drop), normal(rng, self.source.shape)))
        sides = len(x0) // len(slots)
        levels = torch.tensor([t for t, _, _ in drawn] * sides, device=x0.device)
        eps = torch.stack([eps for _, _, eps in drawn] * sides).to(x0.device)
        cond = self.source.condition([*slots] * sides, [dropped for _, dropped, _ in drawn] * sides)
        ones = torch.ones(len(slots), device=x0.device)
        x_t, target = process.noised(x0, eps, levels), process.target(x0, eps, levels)
        return PairBatch(x_t, levels, target, cond, ones, ones)

    @property
    def share(self) -> float:
        """Returns how many pictures a row of a group's best one stands for: its group's, over its noise levels."""
        return self.source.places.per_prompt / self.settings.draws

    def extremes(self, policy: Denoise, step: int, size: int) -> Iterator[tuple[Extremes, int, int]]:
        """Yields the best and the worst pictures of `size` groups at a time, the rollout's number, and each draw."""
        played, update = self.rolled(policy, step)
        x0 = self.finished(played, update)
        best, worst, differ = extremes(self.rewards, played.groups)
        mine = sorted({int(played.groups[index]) for index in x0})
        slots = {slot.index: slot for piece in played.updates[update] for slot in piece.slots}
        for groups in (mine[start : start + size] for start in range(0, len(mine), size)):
            high, low = ([int(side[group]) for group in groups] for side in (best, worst))
            found = Extremes(
                best=[slots[row] for row in high],
                worst=[slots[row] for row in low],
                x0_best=torch.stack([x0[row] for row in high]),
                x0_worst=torch.stack([x0[row] for row in low]),
                differ=differ[groups].float().to(self.source.device),
            )
            yield from ((found, played.number, draw) for draw in range(self.settings.draws))


def whole_groups(source: RolloutSource, method: str) -> None:
    """Raises UserError where a group's pictures are on several processes: the method compares their latents."""
    share, group = source.batch_size // source.places.world, source.places.per_prompt
    if share % group:
        raise UserError(
            f"{method}: expected batch_size / processes, {share}, to be a multiple of rollout.images_per_prompt "
            f"{group}, since the pictures of a prompt are compared with each other. Change batch_size, or "
            "DIFFALIGN_PROCESSES."
        )


def opened_whole(settings: "Renoised", context: Context) -> tuple[RolloutSource, Old | None]:
    """Returns the source of rollouts, whose groups lie whole on a process, and old weights where they're needed."""
    source, old = opened(settings, context)
    whole_groups(source, settings.method)
    return source, old
