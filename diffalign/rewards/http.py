"""A reward over HTTP of one's own: images and prompts there, scores back; docs/evaluation.md has the contract.

Score: whatever the service says. Preprocessing and template are its own: it gets 8-bit PNGs and the prompts as they
are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from diffalign.rewards.parts.encoded import base64_png, finite
from diffalign.rewards.parts.service import Failed, Service, read_token
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.http import Settings


class Answer(BaseModel):
    """The service's answer: a score for each image, null where it can't score."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    scores: list[float | int | None]


@dataclass(frozen=True)
class OverHTTP:
    """Scores without bounds, on another machine: no gradients."""

    asked: Service
    batch_size: int
    version: str
    trained_on: str
    families: tuple[str, ...]
    name = "http"
    range = (-math.inf, math.inf)
    differentiable = False
    service = True

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; NaN where a request failed; see `Reward`."""
        images, size = base64_png(pixels), self.batch_size
        starts = range(0, len(images), size)
        bodies = [{"images": images[i : i + size], "prompts": list(prompts[i : i + size])} for i in starts]
        found: list[float] = []
        for body, answer in zip(bodies, self.asked.ask_all(bodies, self.ask), strict=True):
            found += answer if answer is not None else [math.nan] * len(body["images"])
        scores = torch.tensor(found, dtype=torch.float64)
        scores[~finite(pixels)] = math.nan
        return scores

    def ask(self, body: dict[str, list[str]]) -> list[float]:
        """Returns the scores of one request's images, NaN for null; `Failed` for any other answer."""
        try:
            scores = Answer.model_validate(self.asked.post(body)).scores
        except ValidationError as error:
            raise Failed(f"expected {{scores: [number or null, ...]}}, found {error.errors()[0]['msg']}") from error
        if len(scores) != len(body["images"]):
            raise Failed(f"expected {len(body['images'])} scores, found {len(scores)}")
        return [math.nan if score is None else float(score) for score in scores]


def check(settings: "Settings") -> None:
    """Raises UserError where its token isn't in the environment."""
    read_token("http", settings.token_variable)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Builds the reward; UserError where its token isn't in the environment. It asks nothing yet."""
    asked = Service("http", settings)
    return OverHTTP(asked, settings.batch_size, settings.version, settings.trained_on, settings.families)
