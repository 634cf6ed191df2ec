"""Settings of the probes of trained policies: the section `probe` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from diffalign.config.values import Count, Model, Name, Positive, Share, Whole

ALARMS = (
    "winner_worse",
    "saturation",
    "divergence",
    "reference_changed",
    "reward_spread",
    "clip_share",
    "kl",
    "judge_falls",
)
"""The alarms of training: the keys of the thresholds."""


class Probe(Model):
    """The probes of trained policies: fixed held-out draws every so many steps, and what raises an alarm."""

    every: Whole
    pairs: Count
    draws: Count
    seed: Whole
    on_alarm: Literal["warn", "stop"]
    winner_worse: Positive | None
    saturation: Share | None
    divergence: Positive | None
    reference_changed: Positive | None
    reward_spread: Share | None
    clip_share: Share | None
    kl: Positive | None
    judge_falls: Positive | None
    images: Whole
    image_steps: Annotated[int, Field(ge=1, le=500)]
    guidance: Annotated[float, Field(ge=1)]
    rewards: list[Name]
    """The rewards that score the pictures of probes: some of the section `rewards`."""
