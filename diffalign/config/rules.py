"""Rules of sampling that need no training: `optimise`, `best_of` and `mix_base` of a policy in `generate.overrides`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.config.values import Count, Model, Name, Positive

COUPLED_STEPS = 50
"""The most steps of coupled sampling: beyond, float32 doesn't lead back to the noise."""
ONE_STEP = ("ddim", "euler", "flow_euler")
"""Samplers that coupled sampling can use: of one step, and deterministic (ddim with eta 0)."""


class Optimise(Model):
    """DOODL: the initial noise is moved along the gradient of a reward of the image (docs/methods/optimise.md)."""

    reward: Name
    iterations: Count
    lr: Positive
    """Multiplies the gradient, before `clip`."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    clip: Positive
    """The most that an iteration adds to the momentum of each element of the noise."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The standard deviation of what is added to the noise at random in each iteration."""
    keep: Literal["best", "last"]
    coupled: Annotated[float, Field(ge=0.93, le=1)] | None
    """The mixing weight of EDICT's coupled sampling; null: plain sampling."""


class BestOf(Model):
    """The best of `n` images by a reward, from noise of their own; the first is the one without the rule."""

    reward: Name
    n: Annotated[int, Field(ge=2)]


class MixBase(Model):
    """Annealed importance guidance: from the base network's output to the policy's, by (i / steps) ** power."""

    power: Positive


def problems(sampling: Mapping[str, Any]) -> list[str]:
    """Lists how a policy's rules contradict each other or its sampler, as `key: what`; `sampling` has all settings."""
    rules, sampler = sampling["rules"], sampling["sampler"]
    lines = []
    if {"optimise", "best_of"} <= rules.keys():
        lines.append("best_of: expected null beside optimise: each chooses the noise. Make two policies of it.")
    if rules.get("optimise", {}).get("coupled") is not None:
        if sampler["name"] not in ONE_STEP or sampler.get("eta"):
            known = ", ".join(ONE_STEP)
            lines.append(
                f"optimise.coupled: expected null, or a deterministic sampler of one step, {known} (ddim with eta 0), "
                f"got sampler {sampler['name']}"
            )
        if sampling["steps"] > COUPLED_STEPS:
            lines.append(
                f"optimise.coupled: expected at most {COUPLED_STEPS} steps, beyond which float32 doesn't lead back to "
                f"the noise, got {sampling['steps']}"
            )
    return lines
