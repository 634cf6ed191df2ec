"""LAION's aesthetic predictor 2 (`sac+logos+ava1-l14-linearMSE`): how people rate an image, whatever the prompt.

Score: an affine map of CLIP ViT-L/14's image embedding of length 1, about 1 to 10, as the ratings that it learnt.
Preprocessing: CLIP's, short side to 224 bicubic, the middle cut out. No template: prompts aren't read. Licence:
Apache-2.0, CLIP's MIT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.rewards.parts import clip, folders, head, tensors
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import openai_square
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.aesthetic_v2 import Settings

BACKBONE = "ViT-L/14"
SOURCES = (
    Published("openai/clip-vit-large-patch14", ("config.json", folders.WEIGHTS)),
    Published(
        "https://github.com/christophschuhmann/improved-aesthetic-predictor",
        (folders.HEAD,),
        checkpoint="sac+logos+ava1-l14-linearMSE.pth",
        size=3714759,
        sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    ),
)


@dataclass(frozen=True)
class Aesthetic:
    """Scores without bounds; gradients reach the pixels. `weight` [D] and `bias` are the affine map."""

    model: Any
    weight: Tensor
    bias: float
    batch_size: int
    version: str
    name = "aesthetic_v2"
    range = (-math.inf, math.inf)
    families = ("simulacra", "ava", "clip_l14")
    differentiable = True
    trained_on = (
        "People's ratings from 1 to 10 of early diffusion models' images (Simulacra Aesthetic Captions), of logos and "
        "of photographs (AVA), on OpenAI's CLIP ViT-L/14. In-family: the images that Stable Diffusion 1 learnt from "
        "were chosen by this very predictor."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float32, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        parts = [clip.embedded(self.model, openai_square, part) for part in pixels.split(self.batch_size)]
        return torch.cat(parts) @ self.weight + self.bias


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present(Aesthetic.name, Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the predictor from its folder; UserError where a file is missing, damaged, or another model's."""
    folder = Path(settings.path)
    folders.check(Aesthetic.name, settings, SOURCES)
    file = folder / folders.HEAD
    folders.check_converted(Aesthetic.name, file)
    model = clip.load_model(folder, BACKBONE, device).to(clip.precision(device))
    weight, bias = head.folded(tensors.read(file, head.shapes(model.config.vision_config.projection_dim)))
    version = folders.version(1, (folder / folders.WEIGHTS, file), clip.precision(device))
    return Aesthetic(model, weight.to(model.device), bias, settings.batch_size, version)
