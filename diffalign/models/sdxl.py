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
from diffalign.models import family
from diffalign.models.family import Shapes
from diffalign.models.parts import encoders
from diffalign.models.parts.configs.model import CONFIG, SCHEDULER, Agreement, read_clips, read_index, read_vae
from diffalign.models.parts.configs.schedulers import Schedule
from diffalign.models.parts.configs.schema import read
from diffalign.models.parts.configs.unet import UNet
from diffalign.models.parts.loading import TEXT, check_folder, existing, load_clips, load_network, load_vae

TIME_IDS = 6
"""Length of `time_ids`, the UNet's condition on an image's sizes."""


class SDXL:
    """A model folder's parts. B batch, C latent channels, h w latent size, L tokens, D P text widths.

    A condition is `hidden` [B, L, D] and `pooled` [B, P] of the prompt, and `time_ids` [B, 6] of the image.
    """

    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("vae",), "text": TEXT, "denoiser": ("unet",)}
    denoiser_folder: ClassVar[str] = "unet"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    vae: Any
    encode_image = encoders.encode_image
    decode = encoders.decode

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion XL")
        self.check(path, existing(path / self.denoiser_folder))
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read(Schedule, path / SCHEDULER).process()
        self.zeros_for_empty = read_index(path, self.pipeline).force_zeros_for_empty_prompt
        if "vae" in parts:
            self.vae = load_vae(path, device, dtype)
        if "text" in parts:
            from transformers import CLIPTextModel, CLIPTextModelWithProjection

            self.encoders = load_clips(path, (CLIPTextModel, CLIPTextModelWithProjection), device, dtype)
        if "denoiser" in parts:
            self.load_denoiser(path)

    @classmethod
    def check(cls, model: Path, denoiser: Path | None) -> Shapes:
        """Reads and compares the config files of a model folder and of a denoiser's; loads no weights."""
        read_index(model, cls.pipeline)
        read(Schedule, model / SCHEDULER)
        vae, (first, second) = read_vae(model), read_clips(model, ("", "_2"))
        width, pooled = first.hidden_size + second.hidden_size, second.projection_dim
        if denoiser:
            unet, file, agreement = read(UNet, denoiser / CONFIG), denoiser / CONFIG, Agreement()
            agreement.equal(file, "in_channels", unet.in_channels, vae.latent_channels, "latent_channels of the vae")
            agreement.equal(file, "out_channels", unet.out_channels, vae.latent_channels, "latent_channels of the vae")
            agreement.equal(
                file, "cross_attention_dim", unet.text_width, width, "hidden_size of text_encoder and text_encoder_2"
            )
            agreement.equal(file, "addition_embed_type", unet.addition_embed_type, "text_time", "Stable Diffusion XL")
            agreement.equal(
                file,
                "projection_class_embeddings_input_dim",
                unet.projection_class_embeddings_input_dim,
                pooled + TIME_IDS * (unet.addition_time_embed_dim or 0),
                f"projection_dim of text_encoder_2 and {TIME_IDS} times addition_time_embed_dim",
            )
            agreement.done()
        prompt = {"hidden": (first.max_position_embeddings, width), "pooled": (pooled,)}
        return Shapes(vae.latent_channels, vae.factor, prompt)

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        from diffusers import UNet2DConditionModel

        folder = folder / self.denoiser_folder
        self.check(self.path, folder)
        self.denoiser: nn.Module = load_network(UNet2DConditionModel, folder, self.device, self.dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """Returns `hidden` [B, L, D], the states before the last layer, and `pooled` [B, P] of the second; float32.

        The padding is kept: the UNet attends to it, as in training.
        """
        (first, _), (second, pooled) = (encoders.clip_penultimate(*encoder, prompts) for encoder in self.encoders)
        return {"hidden": torch.cat([first, second], dim=-1), "pooled": pooled}

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counts the prompts that are longer than a text encoder reads, by the tokenizer's folder."""
        named = zip(("tokenizer", "tokenizer_2"), self.encoders, strict=True)
        return {
            name: encoders.count_cut(tokenizer, encoders.clip_length(encoder), prompts)
            for name, (tokenizer, encoder) in named
        }

    def unconditional(self) -> Cond:
        """Returns zeros where model_index.json says so, as published, else the empty prompt's condition.

        Training drops a prompt for the empty one's encoding, as the published training codes do.
        """
        empty = self.encode_prompt([""])
        return {name: torch.zeros_like(value) for name, value in empty.items()} if self.zeros_for_empty else empty

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Returns `time_ids` [6]: original height and width, the crop's top and left, target height and width."""
        return {"time_ids": torch.tensor([*original, *crop, *target], dtype=torch.float32)}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns the UNet's output [B, C, h, w] at x_t [B, C, h, w], integer t [B]."""
        return self.denoiser(
            x_t.to(self.dtype),
            t,
            encoder_hidden_states=cond["hidden"].to(self.dtype),
            added_cond_kwargs={"text_embeds": cond["pooled"].to(self.dtype), "time_ids": cond["time_ids"]},
            return_dict=False,
            **family.asked(cond),
        )[0]

    def fingerprint(self) -> dict[str, Any]:
        """Returns checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        return {"family": "sdxl", **{name: hash_folder(self.path / name) for name in ("vae", *TEXT)}}


load = SDXL
