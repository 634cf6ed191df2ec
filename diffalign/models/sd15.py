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
from diffalign.models import family
from diffalign.models.family import Shapes
from diffalign.models.parts import encoders
from diffalign.models.parts.configs.model import CONFIG, SCHEDULER, Agreement, read_clips, read_index, read_vae
from diffalign.models.parts.configs.schedulers import Schedule
from diffalign.models.parts.configs.schema import read
from diffalign.models.parts.configs.unet import UNet
from diffalign.models.parts.loading import check_folder, existing, load_clips, load_network, load_vae


class SD15:
    """A model folder's parts. B batch, C latent channels, h w latent size, L tokens, D text width."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {
        "vae": ("vae",),
        "text": ("text_encoder", "tokenizer"),
        "denoiser": ("unet",),
    }
    denoiser_folder: ClassVar[str] = "unet"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    vae: Any
    encode_image = encoders.encode_image
    decode = encoders.decode

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion")
        self.check(path, existing(path / self.denoiser_folder))
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read(Schedule, path / SCHEDULER).process()
        if "vae" in parts:
            self.vae = load_vae(path, device, dtype)
        if "text" in parts:
            from transformers import CLIPTextModel

            ((self.tokenizer, self.text_encoder),) = load_clips(path, (CLIPTextModel,), device, dtype)
        if "denoiser" in parts:
            self.load_denoiser(path)

    @classmethod
    def check(cls, model: Path, denoiser: Path | None) -> Shapes:
        """Reads and compares the config files of a model folder and of a denoiser's; loads no weights."""
        read_index(model, cls.pipeline)
        read(Schedule, model / SCHEDULER)
        vae, (text,) = read_vae(model), read_clips(model, ("",))
        if denoiser:
            unet, file, agreement = read(UNet, denoiser / CONFIG), denoiser / CONFIG, Agreement()
            agreement.equal(file, "in_channels", unet.in_channels, vae.latent_channels, "latent_channels of the vae")
            agreement.equal(file, "out_channels", unet.out_channels, vae.latent_channels, "latent_channels of the vae")
            agreement.equal(
                file, "cross_attention_dim", unet.text_width, text.hidden_size, "hidden_size of the text_encoder"
            )
            agreement.equal(file, "addition_embed_type", unet.addition_embed_type, None, "Stable Diffusion 1 and 2")
            agreement.done()
        return Shapes(vae.latent_channels, vae.factor, {"hidden": (text.max_position_embeddings, text.hidden_size)})

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        from diffusers import UNet2DConditionModel

        folder = folder / self.denoiser_folder
        self.check(self.path, folder)
        self.denoiser: nn.Module = load_network(UNet2DConditionModel, folder, self.device, self.dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """Returns `hidden` [B, L, D], float32: the text encoder's last hidden state, padded and cut to its length.

        The padding is kept: the UNet attends to it, as in training.
        """
        tokens = encoders.clip_tokens(self.tokenizer, self.text_encoder, prompts)
        return {"hidden": self.text_encoder(tokens).last_hidden_state.float()}

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counts the prompts that are longer than a text encoder reads, by the tokenizer's folder."""
        length = encoders.clip_length(self.text_encoder)
        return {"tokenizer": encoders.count_cut(self.tokenizer, length, prompts)}

    def unconditional(self) -> Cond:
        """Returns the empty prompt's condition."""
        return self.encode_prompt([""])

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Returns nothing: the network isn't told of sizes."""
        return {}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns the UNet's output [B, C, h, w] at x_t [B, C, h, w], integer t [B]."""
        hidden = cond["hidden"].to(self.dtype)
        asked = family.asked(cond)
        return self.denoiser(x_t.to(self.dtype), t, encoder_hidden_states=hidden, return_dict=False, **asked)[0]

    def fingerprint(self) -> dict[str, Any]:
        """Returns checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        folders = ("vae", "text_encoder", "tokenizer")
        return {"family": "sd15", **{name: hash_folder(self.path / name) for name in folders}}


load = SD15
