"""Builds denoisers without weights from a model folder's config files, to count the work of training them.

All tensors are on PyTorch's meta device: shapes without memory.
B images, C latent channels, h w latent height and width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.diffusion.process import Cond
from diffalign.models import family as families


@dataclass(frozen=True)
class Skeleton:
    """A model whose denoiser is on the meta device, and the shapes of its inputs."""

    model: families.Family
    latent: tuple[int, int, int]
    """(C, h, w)."""
    prompt: dict[str, tuple[int, ...]]
    """Shapes of one prompt's encoding by tensor name, as in a shard."""
    image: dict[str, tuple[int, ...]]
    """Shapes of the tensors by name that an image adds to its condition."""

    @property
    def network(self) -> Any:
        """Returns the denoiser, on the meta device."""
        network: nn.Module = self.model.denoiser
        return network

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns the network's output [B, C, h, w] at x_t [B, C, h, w] and t [B]; of `cond` only raters are read."""
        shapes = self.prompt | self.image
        made = {name: torch.empty(len(x_t), *shape, device=x_t.device) for name, shape in shapes.items()}
        return self.model.denoise(x_t, t, made | families.asked(cond))


def skeleton(family: str, model: Path, init: Path, resolution: int) -> Skeleton:
    """Builds the denoiser of the folder `init` with the configs of the VAE and text encoders of `model`.

    Raises UserError where a config file is missing, can't be used, or doesn't fit the others.
    """
    built = families.load(family, model, (), "meta")
    built.load_denoiser(init)
    shapes = families.find(family).check(model, families.denoiser_folder(family, init))
    side = (resolution, resolution)
    image = {name: tuple(value.shape) for name, value in built.image_cond(side, (0, 0), side).items()}
    return Skeleton(built, shapes.latent(resolution), shapes.prompt, image)
