"""The protocol of rewards, and how one is loaded by its name.

A reward is a file of this folder, and its name in params.yaml is the file's. The file offers
`load(settings, device) -> Reward`: `settings` are what params.yaml says under `rewards.NAME`, typed by
`diffalign/config/rewards/NAME.py`. Training, scoring and relabelling call one and the same function.

Legend: B images, H W pixels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.core import axes, collector
from diffalign.core.errors import UserError
from diffalign.data.pixels import from_uint8


class Reward(Protocol):
    """Scores images for prompts, and says of itself what a reader must know to trust its scores."""

    @property
    def name(self) -> str:
        """Returns the name in params.yaml and in metrics."""

    @property
    def version(self) -> str:
        """Returns the version, which changes when the same image would get another score."""

    @property
    def range(self) -> tuple[float, float]:
        """Returns the lowest and the highest score; infinite where there is no bound."""

    @property
    def trained_on(self) -> str:
        """Returns what it learnt from, or was made from: the bias to expect."""

    @property
    def families(self) -> tuple[str, ...]:
        """Returns tags of what it learnt from: preference data by name, a backbone; data.families' OWN for our pairs.

        A policy that learnt from one of them is in-family: judge and policy share a taste, and so mistakes.
        """

    @property
    def differentiable(self) -> bool:
        """Returns whether gradients reach the pixels."""

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], higher is better, of images [B, 3, H, W], float in [-1, 1], for their prompts.

        NaN where it can't score: never a default.
        """


@runtime_checkable
class Detailed(Protocol):
    """A reward whose score is made of parts that tell a reader more."""

    def scores(self, pixels: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Returns the score under the reward's name, and its parts under names that begin with it, each [B]."""


def lasting(reward: Reward) -> bool:
    """Tells whether a missing score stays missing: not a `service`'s, which failed and may answer another time."""
    return not getattr(reward, "service", False)


def answering(reward: Reward) -> tuple[str, ...]:
    """Returns the ids of the raters that a reward is, whose scores are its parts; none of one that is nobody's."""
    return tuple(getattr(reward, "ids", ()))


def load(name: str, settings: object, device: torch.device | str) -> Reward:
    """Loads a reward, ready to score on `device`; UserError where there is none of that name.

    `settings` are its section of params.yaml, typed or as plain values.
    """
    reward: Reward = axes.load("diffalign.rewards", name).load(typed(name, settings), device)
    collector.usual()  # the libraries are imported
    return reward


def check(name: str, settings: object) -> None:
    """Raises UserError where a reward lacks what it needs, without loading it: for use before hours of work.

    A reward's file may offer `check(settings)`; one without it needs nothing.
    """
    module = axes.load("diffalign.rewards", name)
    if hasattr(module, "check"):
        module.check(typed(name, settings))


def lacking(settings: Mapping[str, object]) -> list[str]:
    """Returns what the rewards of params' section `rewards` lack, a message for each that lacks something."""
    found = []
    for name, values in settings.items():
        try:
            check(name, values)
        except UserError as error:
            found.append(str(error))
    return found


def typed(name: str, settings: object) -> Any:
    """Returns a reward's settings, typed."""
    return axes.load("diffalign.config.rewards", name).Settings.model_validate(settings)


def describe(reward: Reward) -> dict[str, Any]:
    """Returns what a reward says of itself, as JSON has it: a range's end without a bound is None."""
    low, high = (end if math.isfinite(end) else None for end in reward.range)
    return {
        "name": reward.name,
        "version": reward.version,
        "range": (low, high),
        "trained_on": reward.trained_on,
        "families": tuple(reward.families),
        "differentiable": reward.differentiable,
    }


def score_images(
    reward: Reward, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Scores RGB images of one size, uint8 [H, W, 3], without gradients; see `scores`."""
    return scores(reward, from_uint8(images), prompts)


def scores(reward: Reward, pixels: Tensor, prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Scores images without gradients: the score under the reward's name first, then its parts, each [B]."""
    with torch.no_grad():
        found = (
            reward.scores(pixels, prompts) if isinstance(reward, Detailed) else {reward.name: reward(pixels, prompts)}
        )
    return {name: values.double().cpu().numpy() for name, values in found.items()}
