"""Families of models behind one protocol: nothing outside this package asks which family a model is of.

A family is a module of this package that offers a class named `load`; its name in params is the module's. A new family
is a new file and its word in `diffalign/config/params.py`; the schema of a denoiser's config of its own is in its file,
so that no other family's stages run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from diffalign.core import axes, collector
from diffalign.core.errors import UserError
from diffalign.diffusion.process import Cond, Process


@dataclass(frozen=True)
class Shapes:
    """Shapes that follow from a model's config files, without its weights."""

    channels: int
    """C of a latent [C, h, w]."""
    factor: int
    """Pixels a side of a latent's cell: h = H / factor."""
    prompt: dict[str, tuple[int, ...]]
    """The tensors of one prompt's encoding, by name."""
    patch: int = 1
    """Cells a side of what the denoiser takes as one token."""
    largest: int | None = None
    """The most pixels a side that the denoiser has positions for; None where it takes any."""

    def latent(self, resolution: int) -> tuple[int, int, int]:
        """Returns (C, h, w) of a square image of `resolution` pixels; UserError if the model can't have that size."""
        multiple = self.factor * self.patch
        if resolution % multiple or resolution > (self.largest or resolution):
            limit = f", at most {self.largest}" if self.largest else ""
            raise UserError(
                f"precompute.resolution: expected a multiple of {multiple}{limit} for this model, got {resolution}"
            )
        return self.channels, resolution // self.factor, resolution // self.factor


class Family(Protocol):
    """A text-to-image model in parts. B batch, C latent channels, h w latent and H W pixel height and width.

    A condition is a dict of tensors, all with the batch first; only the family knows what is in it.
    """

    pipeline: ClassVar[str]
    """The class of stock diffusers that loads the model, and a policy's LoRA."""
    folders: ClassVar[dict[str, tuple[str, ...]]]
    """The folders of each part, vae, text and denoiser, in a model's folder."""
    denoiser_folder: ClassVar[str]
    """The denoiser's folder in a model's folder, and what its LoRA weights' names begin with."""
    lora_targets: ClassVar[tuple[str, ...]]
    """The modules of the denoiser that carry LoRA."""
    denoiser: nn.Module
    device: torch.device
    """Where its parts are."""

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        """Loads the named parts of a model folder; see `load`."""

    @property
    def process(self) -> Process:
        """Returns the noising process of the latents, and with it the denoiser's target."""

    @classmethod
    def check(cls, model: Path, denoiser: Path | None) -> Shapes:
        """Reads the config files of a model folder and of the denoiser in the folder `denoiser`; loads no weights.

        Raises one UserError that lists what can't be used, with file, key and value, and what doesn't fit together.
        """

    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """Returns the scaled latents' `mean` and `logvar` [B, C, h, w] for pixels [B, 3, H, W] in [-1, 1]."""

    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """Returns what some prompts give to their condition."""

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counts the prompts that are longer than a text encoder reads, by the tokenizer's folder."""

    def unconditional(self) -> Cond:
        """Returns what the absence of a prompt gives to the condition that guidance moves away from; a batch of one."""

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Returns what an image gives to its condition, without a batch dimension; named unlike what a prompt gives.

        In pixels: the image's height and width; top and left of the crop in the resized image; the crop's height and
        width.
        """

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns the network's output [B, C, h, w] at noisy latents x_t [B, C, h, w] and t [B]."""

    def decode(self, x0: Tensor) -> Tensor:
        """Returns pixels [B, 3, H, W], about [-1, 1], for scaled latents [B, C, h, w]; differentiable."""

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model's or a full policy's folder.

        On the meta device it has shapes and no weights, and its config file is enough.
        """

    def fingerprint(self) -> dict[str, Any]:
        """Returns what the encodings depend on: checksums of the VAE, the text encoder and the tokenizer."""


def asked(cond: Cond) -> Cond:
    """Returns what a condition says of whose pictures are wanted: `raters` [B], for a denoiser with rater tokens."""
    return {"raters": cond["raters"]} if "raters" in cond else {}


def find(family: str) -> type[Family]:
    """Returns a family's class by its name in params; its class attributes answer without weights."""
    return cast("type[Family]", axes.load("diffalign.models", family).load)


def denoiser_folder(family: str, folder: Path | str) -> Path:
    """Returns where the denoiser lies in a model's or a full policy's folder."""
    return Path(folder) / find(family).denoiser_folder


def denoiser_weights(key: str, family: str, folder: str) -> Path:
    """Returns the folder of the denoiser that the param `key` names; UserError if there is none."""
    weights = denoiser_folder(family, folder)
    if not weights.is_dir():
        raise UserError(
            f"{key}: expected a folder with {weights.name}/ in it, a model in diffusers' layout or a policy trained "
            f"with adapter full, got {folder!r}"
        )
    return weights


def load(
    family: str,
    path: Path | str,
    parts: Sequence[str] = ("vae", "text", "denoiser"),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Family:
    """Loads the named parts of a model folder in diffusers' layout, in evaluation mode, without gradients.

    Raises UserError if the folder isn't such a model, before any weights are read where its config files tell.
    """
    found = find(family)(Path(path), tuple(parts), torch.device(device), dtype)
    collector.usual()  # the libraries are imported
    return found
