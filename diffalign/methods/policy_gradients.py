"""Policy gradients through the moves of stochastic rollouts: what DDPO, GRPO and DPOK share.

Shapes: s rows of a micro-batch, a move of a picture each; S pictures of a rollout, C latent channels, h w latent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.diffusion import policy_gradient
from diffalign.diffusion.policy_gradient import clipped_loss, gaussian_kl, log_prob, masked_loss
from diffalign.diffusion.process import Denoise, transition
from diffalign.methods.method import Logs
from diffalign.methods.rolled import Piece, Played, RolledMethod, combined
from diffalign.reference.reference import Reference, predictions
from diffalign.rollouts.slots import Slot

if TYPE_CHECKING:
    from diffalign.config.methods.ddpo import PolicyGradient

SD15 = 4 * 64 * 64
"""Elements of a latent of Stable Diffusion 1.5 at 512 pixels, for which clip ranges are published."""
HISTORY, LEAST = 32, 16
"""The latest rewards of a prompt that `history` keeps, and how many there must be for a prompt's own statistics."""


@dataclass(frozen=True)
class Rows:
    """Moves that train: each row is one move of one picture of a piece; a picture may have several rows."""

    slots: list[Slot]
    """The picture of each row."""
    moves: Tensor
    """[s], the number of each row's move."""
    x: Tensor
    """[s, C, h, w], the state that the move leaves."""
    x_prev: Tensor
    """[s, C, h, w], the state that it led to."""
    t: Tensor
    t_prev: Tensor
    log_probs: Tensor | None
    """[s], the move's log-probability when it was made; None where it trains at the weights that made it, in a forward
    of another shape: its ratio is 1 then, whatever rounding says."""
    advantages: Tensor
    """[s]"""
    mean: Tensor | None
    """[s, C, h, w], the move's mean when it was made; None where the trust region doesn't ask."""
    share: float
    """What a row counts of its picture: 1 / its rows."""

    def old(self, log_probs: Tensor) -> Tensor:
        """Returns the log-probabilities [s] that ratios are held against, given those of the weights at hand."""
        return log_probs if self.log_probs is None else self.log_probs


@dataclass
class MovesMethod(RolledMethod):
    """Maximises rewards by importance-weighted policy gradients along the moves of rollouts."""

    settings: "PolicyGradient"
    advantages: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    """[S], of the rollout at hand."""
    values: Tensor = field(init=False)
    """[P, N], the latest rewards of each prompt, where advantages are by `history`."""
    known: Tensor = field(init=False)
    """[P], how many of them there are."""

    def __post_init__(self) -> None:
        """Starts without any history."""
        rows = len(self.source.texts) if self.settings.advantage.kind == "history" else 0
        self.values, self.known = torch.zeros(rows, HISTORY, dtype=torch.float64), torch.zeros(rows, dtype=torch.int64)
        self.before = (self.values, self.known)

    def about(self) -> dict[str, float]:
        """Returns the clip range at Stable Diffusion 1.5's 64 x 64 x 4 latents that this one is like."""
        return {"clip_sd15": self.settings.clip * math.sqrt(self.source.elements / SD15)}

    def state(self) -> dict[str, Tensor]:
        """Returns the prompts' latest rewards as they were before the rollout at hand; none unless by `history`."""
        if self.settings.advantage.kind != "history":
            return {}
        values, known = self.before if self.amid else (self.values, self.known)
        return {"values": values, "known": known}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts the prompts' latest rewards back."""
        super().restore(state)
        if state:
            self.values, self.known = state["values"], state["known"]

    def began(self, played: Played) -> None:
        """Turns the rewards of a new rollout into advantages."""
        how, total = self.settings.advantage, combined(played.rewards, self.source.weights)
        if how.kind == "history":
            self.before = (self.values, self.known)
            self.advantages, self.values, self.known = policy_gradient.history_advantages(
                total, played.prompts, self.values, self.known, LEAST, how.clip
            )
        else:
            self.advantages = policy_gradient.advantages(total, played.groups, how.kind, how.clip)

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[Rows]:
        """Yields the moves that train in a step: of each piece, one or several of each of its pictures at a time."""
        played, update = self.rolled(policy, step)
        for piece in played.updates[update]:
            yield from self.rows(piece, played.number)

    def rows(self, piece: Piece, number: int) -> Iterator[Rows]:
        """Yields the micro-batches of a piece."""
        moves, trajectory = self.trained(piece), piece.trajectory
        count = max(1, round(self.settings.moves.share * len(moves)))
        chosen = torch.tensor([self.source.places.chosen(number, slot, moves, count) for slot in piece.slots])
        times = torch.tensor(trajectory.moves, device=self.source.device)
        for some in chosen.split(self.together(piece), dim=1):
            move, picture = some.T.flatten(), torch.arange(len(piece.slots)).repeat(some.shape[1])
            slots = piece.slots * some.shape[1]
            t, t_prev = times[move.to(times.device)].unbind(1)
            yield Rows(
                slots,
                move,
                trajectory.states[move, picture],
                trajectory.states[move + 1, picture],
                t,
                t_prev,
                trajectory.log_probs[move, picture] if self.together(piece) == 1 else None,
                self.advantages_of(slots, move).to(self.source.device).float(),
                self.old_mean(piece, move, picture, number) if self.settings.trust == "divergence" else None,
                1 / count,
            )

    def together(self, piece: Piece) -> int:
        """Returns how many moves of each picture share a forward: as many as `micro_batch_size` rows hold.

        With several updates only one: a forward then has the rollout's shape, so that unchanged weights have ratio 1 to
        the bit, whichever update it is.
        """
        rows = self.settings.micro_batch_size if self.settings.rollout.updates == 1 else 1
        return max(1, rows // len(piece.slots))

    def advantages_of(self, slots: list[Slot], moves: Tensor) -> Tensor:
        """Returns the advantages [s] of moves [s] of some pictures: a picture's own, whichever move."""
        return self.advantages[[slot.index for slot in slots]]

    def old_mean(self, piece: Piece, moves: Tensor, pictures: Tensor, number: int) -> Tensor:
        """Returns the means [s, C, h, w] that moves [s] of pictures [s] were made by: where they led, less noise."""
        trajectory, added = piece.trajectory, self.source.places.added
        pairs = zip(pictures.tolist(), moves.tolist(), strict=True)
        noise = torch.stack([added(number, piece.slots[own], move, self.source.shape) for own, move in pairs])
        stds = trajectory.stds[moves, pictures].view(-1, 1, 1, 1)
        return trajectory.states[moves + 1, pictures] - stds * noise.to(stds.device)

    def trained(self, piece: Piece) -> list[int]:
        """Lists the moves that may train: in the settings' span, and with noise enough; UserError without any."""
        low, high = (round(end * len(piece.trajectory.moves)) for end in self.settings.moves.span)
        found = [move for move in piece.trajectory.trainable if low <= move < high]
        if not found:
            raise UserError(
                f"moves.span: expected some of the {len(piece.trajectory.moves)} moves that add noise, found none in "
                f"{self.settings.moves.span}, which is steps {low} to {high - 1}"
            )
        return found

    def loss(self, policy: Denoise, reference: Reference | None, batch: Rows, log: bool) -> tuple[Tensor, Logs]:
        """Returns the rows' clipped loss and their pull to the reference, summed, each row with its share."""
        kl, theirs = self.settings.kl, None
        if kl.weight:
            theirs = self.guided(predictions(reference, self.settings.method), batch)  # first: LoRA switches adapters
        output = self.guided(policy, batch)
        mean, std = self.move(output, batch)
        log_probs = log_prob(batch.x_prev, mean, std)
        losses, ratios, outside = self.trusted(log_probs, mean, std, batch)
        logs = {}
        if theirs is not None:
            pull = ((output - theirs) ** 2).flatten(1).mean(1)
            if kl.space == "transition":
                pull = gaussian_kl(mean, self.move(theirs, batch)[0], std)
            losses = losses + kl.weight * pull
            logs["kl"] = pull.detach().sum() * batch.share
        if log:
            logs |= self.watched(ratios.detach(), outside, batch) | self.pictures(len(losses) * batch.share, log)
        return losses.sum() * batch.share, logs

    def guided(self, denoise: Denoise, batch: Rows) -> Tensor:
        """Returns a network's guided output [s, C, h, w], float32, at the rows' states."""
        return self.source.output(denoise, batch.slots)(batch.x, batch.t).float()

    def move(self, output: Tensor, batch: Rows) -> tuple[Tensor, Tensor]:
        """Returns the mean [s, C, h, w] and the standard deviation [s] of the rows' moves by a network's output."""
        plan = self.source.plan
        return transition(plan.process, output, batch.x, batch.t, batch.t_prev, plan.noise)

    def trusted(self, log_probs: Tensor, mean: Tensor, std: Tensor, batch: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the losses [s] within the trust region, the ratios [s], and which rows [s] have left the region."""
        clip, old = self.settings.clip, batch.old(log_probs)
        if batch.mean is None:
            losses, ratios = clipped_loss(log_probs, old, batch.advantages, clip)
            return losses, ratios, (ratios.detach() - 1).abs() > clip
        gone = gaussian_kl(mean, batch.mean, std).detach() > clip
        losses, ratios = masked_loss(log_probs, old, batch.advantages, gone)
        return losses, ratios, gone

    def watched(self, ratios: Tensor, outside: Tensor, batch: Rows) -> Logs:
        """Returns how far ratios are from 1, and the share of rows outside the trust region."""
        return {
            "clip_share": outside.float().sum() * batch.share,
            "ratio_away": (ratios - 1).abs().sum() * batch.share,
        }
