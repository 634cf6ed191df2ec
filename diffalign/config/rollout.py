"""Settings that policies share which learn from pictures of their own, scored by rewards: rollouts, rewards, KL."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationError

from diffalign.config.generate import Guidance, Steps
from diffalign.config.pairs import Pairs
from diffalign.config.samplers import Sampler
from diffalign.config.training import Trained
from diffalign.config.values import Count, Flag, Model, Name, Positive
from diffalign.core import axes
from diffalign.core.errors import UserError

WEIGHT = "weight"
"""The key of a policy's reward beside the reward's own settings."""


class Rollouts(Model):
    """What policies share that learn from their own pictures: the section `rollouts` of params.yaml."""

    rewards_from: str
    """The file or folder that their rewards read: a dependency of the stage `feedback`."""

    def problems(self, policy: "Rolled") -> list[str]:
        """Returns the reward models of a policy that DVC wouldn't see change, as `key: what`."""
        paths = {name: str(values.get("path", "")).rstrip("/") for name, values in policy.reward.items()}
        return [
            f"reward.{name}.path: expected rollouts.rewards_from, {self.rewards_from}, or a folder below it, so "
            f"that DVC trains the policy again when the reward model changes, got {path!r}"
            for name, path in paths.items()
            if path and not self.watches(path)
        ]

    def watches(self, path: str) -> bool:
        """Tells whether DVC sees the reward model at a path change: it's `rewards_from`, or lies below it."""
        return f"{path.rstrip('/')}/".startswith(self.rewards_from.rstrip("/") + "/")


class Rollout(Model):
    """How a policy makes the pictures that it learns from."""

    sampler: Sampler
    steps: Steps
    guidance: Guidance
    """Of the rollout and of the training on it alike; 1: none."""
    images_per_prompt: Count
    updates: Count
    """Optimizer steps on one rollout's pictures, each on `batch_size` of them."""
    shared_noise: Flag
    """true: the pictures of a prompt begin with the same noise."""


class Advantage(Model):
    """How rewards become advantages: see `policy_gradient.advantages`; `history`: by each prompt's latest rewards."""

    kind: Literal["batch", "group", "group_mean", "history"]
    clip: Positive


class Kl(Model):
    """The pull to the reference: `weight` times a divergence; 0: none, and no reference is asked."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    space: Literal["output", "transition"]
    """output: the mean squared difference of the networks' guided outputs; transition: the Gaussian moves' own."""


def used(name: str, values: Mapping[str, Any]) -> tuple[float, Any]:
    """Returns the weight and the typed settings of a policy's reward; ValueError where they aren't such."""
    weight = values.get(WEIGHT)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight == 0 or not math.isfinite(weight):
        raise ValueError(f"{name}.{WEIGHT}: expected a finite number other than 0, got {weight!r}")
    try:
        module = axes.load("diffalign.config.rewards", name)
        return float(weight), module.Settings.model_validate({k: v for k, v in values.items() if k != WEIGHT})
    except UserError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{name}.{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None


def checked(rewards: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the rewards of a policy; ValueError where one's weight or settings are wrong."""
    for name, values in rewards.items():
        used(name, values)
    return rewards


class Forwards(NamedTuple):
    """The forwards of the network that a step takes for one picture, the halves of guidance counted each."""

    plain: float
    """Without gradients: rolling out, and what an old policy or the reference says."""
    swept: float
    """With the gradient of the network's input alone."""
    trained: float


class Rolled(Trained):
    """A policy that learns from its own pictures; a method's `Settings` adds its keys."""

    graded: ClassVar[bool] = False
    """Whether gradients go back through the decoder and the rewards."""
    rollout: Rollout
    reward: Annotated[dict[Name, dict[str, Any]], Field(min_length=1), AfterValidator(checked)]
    """What is maximised, by name: each its `weight`, negative to minimise, and the reward's own settings.

    With several a weight is of a reward in its standard deviations over a rollout (`methods.rolled.combined`); where
    the reward's gradient is followed, of a reward in its own unit.
    """

    def judge(self, names: Iterable[str]) -> str | None:
        """Returns the first of the probe's rewards that the policy isn't trained on; None where it is trained on all.

        A reward that is maximised can't say whether pictures get better, or only please it.
        """
        return next((name for name in names if name not in self.reward), None)

    def forwards(self) -> Forwards:
        """Returns the forwards that a step takes for one picture; each method's own."""
        raise NotImplementedError(f"{self.method}: expected a method that says its forwards")

    @property
    def scored(self) -> int:
        """Returns how often a picture of a step is decoded and scored."""
        return 1

    @property
    def keeps_old(self) -> bool:
        """Returns whether a copy of the trained weights is kept as they were at an earlier step."""
        return self.rollout.updates > 1

    @property
    def halves(self) -> int:
        """Returns the forwards of a guided output: 2, or 1 without guidance."""
        return 1 if self.rollout.guidance == 1 else 2

    @property
    def trained_halves(self) -> int:
        """Returns those of `halves` that have gradients: 1 where guidance's unconditional half isn't trained."""
        return self.halves if getattr(self, "train_unconditional", True) else 1

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what can't be: a batch that cuts a prompt's pictures apart, a noise or reference that is lacking."""
        lines = []
        if self.batch_size % self.rollout.images_per_prompt:
            lines.append(
                f"batch_size: expected a multiple of rollout.images_per_prompt {self.rollout.images_per_prompt}, "
                f"got {self.batch_size}"
            )
        if self.reference == "cached":
            lines.append(
                "reference: expected live or none, since the policy's own pictures have no kept errors, got 'cached'"
            )
        kl: Kl | None = getattr(self, "kl", None)
        if kl is not None and kl.weight and self.reference != "live":
            lines.append(f"reference: expected live, since kl.weight is {kl.weight:g}, got {self.reference!r}")
        return lines


class Renoised(Rolled):
    """A policy that learns from its finished pictures, noised afresh, as all methods on images noise them."""

    draws: Count
    """(timestep, noise) draws for each picture that is trained on, by `timesteps`, their density and `stratified`."""


class Compared(Renoised):
    """A policy that compares the pictures of each prompt with each other."""

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what can't be: groups of one picture."""
        lines = super().problems(pairs)
        if self.rollout.images_per_prompt == 1:
            lines.append(f"rollout.images_per_prompt: expected at least 2 with {self.method}, got 1")
        return lines
