"""DiffusionNFT: learns from its own pictures, good and bad ones, by the forward process (arXiv 2509.16117).

Shapes: n rows of a micro-batch, a picture at one noise level each; S pictures of a rollout; C, h, w of a latent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch
from diffalign.diffusion.forward_losses import diffusion_nft, goodness, old_share
from diffalign.diffusion.policy_gradient import advantages
from diffalign.diffusion.process import Denoise
from diffalign.methods.method import Context, Logs, Method, Old
from diffalign.methods.renoised import RenoisedMethod
from diffalign.methods.rolled import Piece, Played
from diffalign.reference.reference import Reference, predictions
from diffalign.rollouts.slots import Slot
from diffalign.rollouts.source import RolloutSource

if TYPE_CHECKING:
    from diffalign.config.methods.nft import Settings


@dataclass(frozen=True)
class Rows:
    """Noised pictures of a piece, what the old policy predicts there, and how good they are."""

    slots: list[Slot]
    noised: PairBatch
    old: Tensor
    """[n, C, h, w], float32."""
    good: Tensor
    """[n], the probability that the picture is good."""
    counted: Tensor
    """[n], 1, or 0 for a picture without a reward."""


@dataclass
class NFT(RenoisedMethod):
    """Trains towards good pictures and away from bad ones, both relative to an old policy, which makes the pictures.

    With guidance, which the authors do without, o is the guided output in the rollout and in the loss alike: good and
    bad pictures of a group pull against each other all the same, whatever field their distribution has.
    The old policy follows the new one at the start of each step (`old_share`), so that a training that goes on from a
    checkpoint does it once, too.
    """

    old: Old
    settings: "Settings"
    good: Tensor = field(default_factory=lambda: torch.zeros(0), init=False)
    """[S], float32, of the rollout at hand."""

    def rolled(self, policy: Denoise, step: int) -> tuple[Played, int]:
        """Returns the step's rollout, made by the old policy, which moves to the new one first."""
        if self.played is None or self.played.number != step:
            how = self.settings.old
            if step:
                self.old.keep(old_share(step, how.start, how.rate, how.most))
            return self.roll(policy, step, self.old.put_back()), 0
        return self.played, 0

    def began(self, played: Played) -> None:
        """Turns rewards into probabilities, by the advantages."""
        super().began(played)
        how = self.settings.advantage
        assert how.kind != "history", "nft's settings refuse it"
        found = advantages(self.rewards, played.groups, how.kind, how.clip)
        self.good = goodness(found, how.clip).float()

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[Rows]:
        """Yields the step's pictures at each of their noise levels; the old policy sees all of them beforehand."""
        played, _ = self.rolled(policy, step)
        places = [(piece, draw) for piece in played.updates[0] for draw in range(self.settings.draws)]
        with torch.no_grad(), self.old.put_back():
            rows = [self.rows(policy, piece, step, draw) for piece, draw in places]
        yield from rows

    def rows(self, policy: Denoise, piece: Piece, number: int, draw: int) -> Rows:
        """Returns a piece at one noise level a picture, with the predictions of the policy as it is now."""
        noised = self.noised(piece.slots, piece.trajectory.states[-1], number, draw)
        where = [slot.index for slot in piece.slots]
        counted, device = (~self.rewards[where].isnan()).float(), self.source.device
        output = self.predicted(policy, piece.slots, noised)
        return Rows(piece.slots, noised, output, self.good[where].to(device), counted.to(device))

    def predicted(self, denoise: Denoise, slots: list[Slot], noised: PairBatch) -> Tensor:
        """Returns a network's output [n, C, h, w], float32, guided as the rollout is."""
        return self.source.output(denoise, slots)(noised.x_t, noised.t).float()

    def loss(self, policy: Denoise, reference: Reference | None, batch: Rows, log: bool) -> tuple[Tensor, Logs]:
        """Returns the rows' losses and their pull to the reference, summed, each row with its share of a picture.

        The loss is times the advantages' clip, which the probabilities divide by, as in the authors' code.
        """
        how, share, where = self.settings, 1 / self.settings.draws, (batch.slots, batch.noised)
        theirs = None
        if how.kl.weight:  # first: LoRA switches adapters
            theirs = self.predicted(predictions(reference, how.method), *where)
        output = self.predicted(policy, *where)
        losses = diffusion_nft(output, batch.old, batch.noised.target, batch.good, how.strength) * how.advantage.clip
        logs = {}
        if theirs is not None:
            pull = (output - theirs).square().mean(dim=(1, 2, 3))
            losses = losses + how.kl.weight * pull
            logs["kl"] = (batch.counted * pull.detach()).sum() * share
        moved = (output.detach() - batch.old).square().mean(dim=(1, 2, 3))
        logs |= {"old_change": moved.sum() * share} | self.pictures(len(losses) * share, log)
        return (batch.counted * losses).sum() * share, logs


def build(settings: "Settings", context: Context) -> Method:
    """Builds DiffusionNFT on a run's prompts and rewards."""
    return NFT(context.source(RolloutSource), context.old(), settings)
