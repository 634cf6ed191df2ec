"""Families of models behind one seam: nothing outside this package asks which family a model is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.diffusion.process import Cond, Process
from diffalign.models.sd3 import SD3
from diffalign.models.sd15 import SD15
from diffalign.models.sdxl import SDXL


class Family(Protocol):
    """A text-to-image model in parts. B batch, C latent channels, h w latent and H W pixel height and width.

    A condition is a dict of tensors, all with the batch first; only the family knows what is in it.
    """

    pipeline: str
    """The class of stock diffusers that loads the model, and a policy's LoRA."""
    denoiser_folder: str
    """The denoiser's folder in a model's folder, and what its LoRA weights' names begin with."""
    lora_targets: tuple[str, ...]
    """The modules of the denoiser that carry LoRA."""
    denoiser: nn.Module
    device: torch.device
    """Where its parts are."""

    @property
    def process(self) -> Process:
        """How its latents are noised, and what the denoiser predicts."""

    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """`mean` and `logvar` [B, C, h, w] of the latents' posterior, scaled, for pixels [B, 3, H, W] in [-1, 1]."""

    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """What some prompts give to their condition."""

    def unconditional(self) -> Cond:
        """What the absence of a prompt gives to the condition that guidance moves away from; a batch of one."""

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """What an image gives to its condition, without a batch dimension; of other names than what a prompt gives.

        In pixels: the image's height and width; top and left of the crop in the resized image; the crop's height and
        width.
        """

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's output [B, C, h, w] at noisy latents x_t [B, C, h, w] and t [B]."""

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] for scaled latents [B, C, h, w]; differentiable."""

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model's or a full policy's folder."""

    def fingerprint(self) -> dict[str, Any]:
        """What the encodings depend on: checksums of the VAE, the text encoder and the tokenizer."""


FAMILIES: dict[str, type[SD15 | SDXL | SD3]] = {"sd15": SD15, "sdxl": SDXL, "sd3": SD3}


def denoiser_folder(family: str, folder: Path | str) -> Path:
    """Where the denoiser lies in a model's or a full policy's folder."""
    return Path(folder) / FAMILIES[family].denoiser_folder


def denoiser_weights(key: str, family: str, folder: str) -> Path:
    """The folder of the denoiser that the param `key` names; UserError if there is none."""
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

    Raises UserError if the folder isn't such a model.
    """
    return FAMILIES[family](Path(path), tuple(parts), torch.device(device), dtype)
