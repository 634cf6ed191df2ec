"""The settings of a DDPO policy."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffalign.config.pairs import Pairs
from diffalign.config.rollout import Advantage, Forwards, Kl, Rolled
from diffalign.config.values import Flag, Model, Positive, Span


class Moves(Model):
    """Which of a rollout's moves train: a `share` of those in a `span` of its steps, drawn anew for each picture."""

    share: Annotated[float, Field(gt=0, le=1)]
    span: Span
    """0 is the first step, of pure noise; 1 is the last."""


class PolicyGradient(Rolled):
    """What the methods share that take a policy gradient along a stochastic rollout."""

    advantage: Advantage
    moves: Moves
    trust: Literal["clip", "divergence"]
    """clip: a ratio beyond 1 +- `clip` no longer trains; divergence: a mean that has gone further than `clip`."""
    clip: Positive
    """Of mean log-probabilities: 1e-4 for SD 1.5 at 512 pixels, and it grows as 1 / sqrt(a latent's size); of a
    divergence: 1e-5."""
    kl: Kl
    train_unconditional: Flag
    """Whether gradients go through guidance's unconditional half too."""

    @property
    def trained(self) -> int:
        """Returns how many moves of a picture train, at most."""
        low, high = (round(end * self.rollout.steps) for end in self.moves.span)
        return max(1, round(self.moves.share * (high - low)))

    @property
    def rows(self) -> int:
        """Returns how many moves of a picture may share a forward: with several updates, a move at a time."""
        return self.trained if self.rollout.updates == 1 else 1

    def forwards(self) -> Forwards:
        """Returns a rollout, and the moves that train, with the reference's outputs at them where there's a KL."""
        rows, trained = self.trained, self.trained * self.trained_halves
        frozen = rows if self.kl.weight else 0
        return Forwards((self.rollout.steps + frozen + rows) * self.halves - trained, 0, trained)

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what can't be: groups of one picture, and what all that learn from rollouts can't do."""
        lines = super().problems(pairs)
        if self.advantage.kind in ("group", "group_mean") and self.rollout.images_per_prompt == 1:
            lines.append(
                f"rollout.images_per_prompt: expected at least 2, since advantage.kind is {self.advantage.kind}, got 1"
            )
        if self.advantage.kind == "history" and len(self.reward) > 1:
            lines.append(
                "advantage.kind: expected batch, group or group_mean with several rewards, since each is standardised "
                "by its rollout and totals of two rollouts can't be compared, got 'history'"
            )
        if not getattr(self.rollout.sampler, "eta", getattr(self.rollout.sampler, "noise", 0)):
            lines.append(
                "rollout.sampler: expected one that adds noise, such as ddim with eta 1 or flow_sde, since a policy "
                f"gradient needs moves with a probability, got {self.rollout.sampler.model_dump()}"
            )
        return lines


class Settings(PolicyGradient):
    """DDPO (Black et al. 2023): a clipped, importance-weighted policy gradient."""

    title: ClassVar[str] = "DDPO"
    method: Literal["ddpo"]
