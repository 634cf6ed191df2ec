"""Stable Diffusion XL: two CLIP text encoders, a UNet that is also told the image's sizes (Podell et al. 2023).

diffusers and transformers take seconds to import: only loading a network does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffalign.core.files import hash_folder
from diffalign.diffusion.process import Cond
from diffalign.models.encoders import clip_penultimate, decode_latents, encode_pixels
from diffalign.models.loading import TEXT, check_folder, load_clips, load_part, load_unet, read_config, read_diffusion


class SDXL:
    """A model folder's parts. B batch, C latent channels, h = H / 8, w = W / 8, L tokens, D P text widths.

    A condition is `hidden` [B, L, D] and `pooled` [B, P] of the prompt, and `time_ids` [B, 6] of the image.
    """

    pipeline = "StableDiffusionXLPipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("vae",), "text": TEXT, "denoiser": ("unet",)}
    denoiser_folder = "unet"
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion XL")
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read_diffusion(path / "scheduler" / "scheduler_config.json")
        if "vae" in parts:
            from diffusers import AutoencoderKL

            self.vae = load_part(AutoencoderKL, path / "vae", device, dtype)
        if "text" in parts:
            self._load_text()
        if "denoiser" in parts:
            self.load_denoiser(path)

    def _load_text(self) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        classes = (CLIPTextModel, CLIPTextModelWithProjection)
        self.encoders = load_clips(self.path, classes, self.device, self.dtype)
        index = read_config(self.path / "model_index.json", "model index")
        self.zeros_for_empty = index.get("force_zeros_for_empty_prompt", True)  # the stock pipeline's default

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        self.denoiser: nn.Module = load_unet(folder / self.denoiser_folder, "text_time", self.device, self.dtype)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """`mean` and `logvar` [B, C, h, w], float32, of the scaled latents for pixels [B, 3, H, W] in [-1, 1]."""
        return encode_pixels(self.vae, pixels)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """`hidden` [B, L, D], both encoders' states before the last layer, and `pooled` [B, P] of the second; float32.

        The padding is kept: the UNet attends to it, as in training.
        """
        (first, _), (second, pooled) = (clip_penultimate(*encoder, prompts) for encoder in self.encoders)
        return {"hidden": torch.cat([first, second], dim=-1), "pooled": pooled}

    def unconditional(self) -> Cond:
        """What guidance moves away from: zeros where model_index.json says so, as published, else the empty prompt's.

        Training drops a prompt for the empty one's encoding, as the published training codes do.
        """
        empty = self.encode_prompt([""])
        return {name: torch.zeros_like(value) for name, value in empty.items()} if self.zeros_for_empty else empty

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """`time_ids` [6]: original height and width, the crop's top and left, target height and width."""
        return {"time_ids": torch.tensor([*original, *crop, *target], dtype=torch.float32)}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The UNet's output [B, C, h, w] at x_t [B, C, h, w], integer t [B]."""
        return self.denoiser(
            x_t.to(self.dtype),
            t,
            encoder_hidden_states=cond["hidden"].to(self.dtype),
            added_cond_kwargs={"text_embeds": cond["pooled"].to(self.dtype), "time_ids": cond["time_ids"]},
            return_dict=False,
        )[0]

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], about [-1, 1] and not clipped, for scaled latents [B, C, h, w]; differentiable."""
        return decode_latents(self.vae, x0)

    def fingerprint(self) -> dict[str, Any]:
        """Checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        return {"family": "sdxl", **{name: hash_folder(self.path / name) for name in ("vae", *TEXT)}}
