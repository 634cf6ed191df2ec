"""Stable Diffusion 1.x and 2.x: a KL autoencoder, one CLIP text encoder, a UNet that predicts eps or v.

diffusers and transformers take seconds to import: only loading a network does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffalign.core.files import hash_folder
from diffalign.diffusion.process import Cond
from diffalign.models.encoders import clip_tokens, decode_latents, encode_pixels
from diffalign.models.loading import check_folder, load_clips, load_part, load_unet, read_diffusion


class SD15:
    """A model folder's parts. B batch, C latent channels, h = H / 8, w = W / 8, L tokens, D text width."""

    pipeline = "StableDiffusionPipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {
        "vae": ("vae",),
        "text": ("text_encoder", "tokenizer"),
        "denoiser": ("unet",),
    }
    denoiser_folder = "unet"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion")
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read_diffusion(path / "scheduler" / "scheduler_config.json")
        if "vae" in parts:
            from diffusers import AutoencoderKL

            self.vae = load_part(AutoencoderKL, path / "vae", device, dtype)
        if "text" in parts:
            from transformers import CLIPTextModel

            ((self.tokenizer, self.text_encoder),) = load_clips(path, (CLIPTextModel,), device, dtype)
        if "denoiser" in parts:
            self.load_denoiser(path)

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        self.denoiser: nn.Module = load_unet(folder / self.denoiser_folder, None, self.device, self.dtype)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """`mean` and `logvar` [B, C, h, w], float32, of the scaled latents for pixels [B, 3, H, W] in [-1, 1]."""
        return encode_pixels(self.vae, pixels)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """`hidden` [B, L, D], float32: the text encoder's last hidden state, padded and cut to the model's length.

        The padding is kept: the UNet attends to it, as in training.
        """
        tokens = clip_tokens(self.tokenizer, self.text_encoder, prompts)
        return {"hidden": self.text_encoder(tokens).last_hidden_state.float()}

    def unconditional(self) -> Cond:
        """The empty prompt's condition."""
        return self.encode_prompt([""])

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Nothing: the network isn't told of sizes."""
        return {}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The UNet's output [B, C, h, w] at x_t [B, C, h, w], integer t [B]."""
        hidden = cond["hidden"].to(self.dtype)
        return self.denoiser(x_t.to(self.dtype), t, encoder_hidden_states=hidden, return_dict=False)[0]

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], about [-1, 1] and not clipped, for scaled latents [B, C, h, w]; differentiable."""
        return decode_latents(self.vae, x0)

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        folders = ("vae", "text_encoder", "tokenizer")
        return {"family": "sd15", **{name: hash_folder(self.path / name) for name in folders}}
