"""Settings that methods share which follow a reward's gradient through the moves that made a picture."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffalign.config.pairs import Pairs
from diffalign.config.rollout import Forwards, Kl, Rolled, Rollout, used
from diffalign.config.values import Flag, Span

Through = Literal["exact", "straight"]
"""exact: the gradient goes through the network's input; straight: the input is taken as data, as DRTune does."""
Sees = Literal["end", "estimate"]
"""end: the reward sees the rollout's picture; estimate: the clean picture that the last trained step foretells."""


class RewardGradient(Rolled):
    """What these methods share beside what trains, their `gradient`: rewards with gradients, rollouts without noise."""

    graded: ClassVar[bool] = True
    hinge: Annotated[float, Field(allow_inf_nan=False)] | None
    """A picture whose weighted reward is above it no longer pushes."""
    kl: Kl
    train_unconditional: Flag
    """Whether gradients go through guidance's unconditional half too."""

    def window(self) -> tuple[float, float, float]:
        """Returns means over steps: moves that are rolled out, that the gradient is swept through, that train."""
        raise NotImplementedError(f"{self.method}: expected a method that says which moves train")

    def forwards(self) -> Forwards:
        """Returns the moves of `window`, and the reference's outputs at those that train where there's a KL."""
        rolled, swept, trained = self.window()
        plain = self.halves * (rolled + (trained if self.kl.weight else 0))
        plain += (self.halves - self.trained_halves) * (swept + trained)
        return Forwards(plain, swept * self.trained_halves, trained * self.trained_halves)

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what can't be: rewards without gradients, noise in the steps, several updates, another KL."""
        lines = super().problems(pairs) + [
            f"reward.{name}: expected a reward with gradients, such as learned or pickscore, since {self.method} "
            f"follows them; {name} has none: ddpo and grpo can learn from it"
            for name, values in self.reward.items()
            if not getattr(used(name, values)[1], "differentiable", False)
        ]
        lines += [f"rollout.{line}" for line in of_rollout(self.rollout)]
        if self.kl.space != "output":
            lines.append(f"kl.space: expected output, since the steps have no noise, got {self.kl.space!r}")
        return lines


def too_many(count: int, most: int) -> list[str]:
    """Returns a line where more steps are to train than the `most` that there are."""
    return [] if count <= most else [f"gradient.steps: expected at most {most}, the rollout's, got {count}"]


def of_stop(span: Span) -> list[str]:
    """Returns a line where the range of stops is empty."""
    return [] if span[0] < span[1] else [f"gradient.stop: expected a lower and a higher share, got {list(span)}"]


def stops(span: Span, steps: int) -> range:
    """Returns the moves 0..steps-1 of a rollout in a range of shares, at least one: 30..39 of 40 for (0.75, 1)."""
    low = min(round(span[0] * steps), steps - 1)
    return range(low, max(round(span[1] * steps), low + 1))


def of_rollout(rollout: Rollout) -> list[str]:
    """Returns what a rollout can't be whose steps are differentiated, as `key: what`."""
    lines, sampler = [], rollout.sampler
    if getattr(sampler, "eta", 0) or hasattr(sampler, "noise") or sampler.name in ("dpmpp_2m", "euler_ancestral"):
        lines.append(
            "sampler: expected one of single steps without noise, ddim with eta 0, euler or flow_euler, since the "
            f"gradient goes back over them, got {sampler.model_dump()}"
        )
    if rollout.updates != 1:
        lines.append(
            "updates: expected 1, since a rollout's gradient is that of the weights that made it, "
            f"got {rollout.updates}"
        )
    if rollout.shared_noise and rollout.images_per_prompt > 1:
        lines.append("shared_noise: expected false, since the pictures of a prompt would be equal, got true")
    return lines
