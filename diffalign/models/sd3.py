"""Stable Diffusion 3: rectified flow, an MMDiT over 16-channel latents, two CLIPs and perhaps T5 (Esser et al. 2024).

diffusers and transformers take seconds to import: only loading a network does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from diffalign.core.files import hash_folder
from diffalign.diffusion.process import Cond
from diffalign.models import family
from diffalign.models.family import Shapes
from diffalign.models.parts import encoders
from diffalign.models.parts.configs.model import CONFIG, SCHEDULER, Agreement, read_clips, read_index, read_vae
from diffalign.models.parts.configs.schedulers import FlowSchedule
from diffalign.models.parts.configs.schema import DiffusersConfig, Few, Size, read
from diffalign.models.parts.configs.text import T5 as T5Config
from diffalign.models.parts.loading import (
    T5_FILES,
    TEXT,
    check_folder,
    existing,
    load_clips,
    load_network,
    load_part,
    load_tokenizer,
    load_vae,
)

T5 = ("text_encoder_3", "tokenizer_3")
T5_TOKENS = 256
"""The length that T5's states, or the zeros in their place, have in the stock pipeline."""


class SD3:
    """A model folder's parts. B batch, C latent channels, h w latent size, L tokens, D P text widths.

    A condition is `hidden` [B, L, D] of the CLIPs, `pooled` [B, P], and with T5 `t5` [B, 256, J]. Without it the
    transformer gets zeros, as in the stock pipeline; they aren't stored.
    """

    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    folders: ClassVar[dict[str, tuple[str, ...]]] = {"vae": ("vae",), "text": TEXT, "denoiser": ("transformer",)}
    denoiser_folder: ClassVar[str] = "transformer"
    # Of both streams' attention, the image's and the text's, as in diffusers' SD3 script.
    lora_targets: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
    vae: Any
    encode_image = encoders.encode_image
    decode = encoders.decode

    def __init__(self, path: Path, parts: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> None:
        check_folder(path, parts, self.folders, "Stable Diffusion 3")
        self.check(path, existing(path / self.denoiser_folder))
        self.path, self.device, self.dtype = path, device, dtype
        self.process = read(FlowSchedule, path / SCHEDULER).process()
        if "vae" in parts:
            self.vae = load_vae(path, device, dtype)
        if "text" in parts:
            self._load_text()
        if "denoiser" in parts:
            self.load_denoiser(path)

    @classmethod
    def check(cls, model: Path, denoiser: Path | None) -> Shapes:
        """Reads and compares the config files of a model folder and of a denoiser's; loads no weights."""
        read_index(model, cls.pipeline)
        read(FlowSchedule, model / SCHEDULER)
        vae, clips = read_vae(model), read_clips(model, ("", "_2"))
        width, pooled = sum(clip.hidden_size for clip in clips), sum(clip.projection_dim for clip in clips)
        prompt: dict[str, tuple[int, ...]] = {"hidden": (clips[0].max_position_embeddings, width), "pooled": (pooled,)}
        t5 = read(T5Config, model / T5[0] / CONFIG) if (model / T5[0]).is_dir() else None
        if t5:
            prompt["t5"] = (T5_TOKENS, t5.d_model)
        if not denoiser:
            return Shapes(vae.latent_channels, vae.factor, prompt)
        net, file, agreement = read(MMDiT, denoiser / CONFIG), denoiser / CONFIG, Agreement()
        agreement.equal(file, "in_channels", net.in_channels, vae.latent_channels, "latent_channels of the vae")
        out = net.in_channels if net.out_channels is None else net.out_channels
        agreement.equal(file, "out_channels", out, vae.latent_channels, "latent_channels of the vae")
        agreement.equal(
            file, "pooled_projection_dim", net.pooled_projection_dim, pooled, "projection_dim of both CLIPs"
        )
        joint = t5.d_model if t5 else max(net.joint_attention_dim, width)
        why = "d_model of text_encoder_3" if t5 else "hidden_size of both CLIPs, or more"
        agreement.equal(file, "joint_attention_dim", net.joint_attention_dim, joint, why)
        agreement.done()
        largest = net.pos_embed_max_size * net.patch_size * vae.factor
        return Shapes(vae.latent_channels, vae.factor, prompt, net.patch_size, largest)

    @property
    def has_t5(self) -> bool:
        """Tells whether the model folder has the optional third text encoder."""
        return (self.path / T5[0]).is_dir()

    def _load_text(self) -> None:
        from transformers import CLIPTextModelWithProjection, T5EncoderModel, T5TokenizerFast

        self.encoders = load_clips(self.path, (CLIPTextModelWithProjection,) * 2, self.device, self.dtype)
        if self.has_t5:
            self.t5 = load_part(T5EncoderModel, self.path / T5[0], self.device, self.dtype)
            vocabulary = self.t5.config.vocab_size
            self.t5_tokenizer = load_tokenizer(T5TokenizerFast, self.path / T5[1], vocabulary, T5_FILES)

    def load_denoiser(self, folder: Path) -> None:
        """Replaces the denoiser by the one of a model or of a full policy."""
        from diffusers import SD3Transformer2DModel

        folder = folder / self.denoiser_folder
        self.check(self.path, folder)
        self.joint_width = read(MMDiT, folder / CONFIG).joint_attention_dim
        self.denoiser: nn.Module = load_network(SD3Transformer2DModel, folder, self.device, self.dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Cond:
        """Returns `hidden` [B, L, D], the CLIPs' states before the last layer, `pooled` [B, P], and `t5`; float32.

        The padding is kept: the transformer attends to it, as in training.
        """
        (first, pooled_1), (second, pooled_2) = (
            encoders.clip_penultimate(*encoder, prompts) for encoder in self.encoders
        )
        cond = {"hidden": torch.cat([first, second], dim=-1), "pooled": torch.cat([pooled_1, pooled_2], dim=-1)}
        if self.has_t5:
            tokens = self.t5_tokenizer(
                list(prompts), padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
            )
            cond["t5"] = self.t5(tokens.input_ids.to(self.device))[0].float()
        return cond

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counts the prompts that are longer than a text encoder reads, by the tokenizer's folder."""
        named = zip(("tokenizer", "tokenizer_2"), self.encoders, strict=True)
        cut = {
            name: encoders.count_cut(tokenizer, encoders.clip_length(encoder), prompts)
            for name, (tokenizer, encoder) in named
        }
        return cut | ({"tokenizer_3": encoders.count_cut(self.t5_tokenizer, T5_TOKENS, prompts)} if self.has_t5 else {})

    def unconditional(self) -> Cond:
        """Returns the empty prompt's condition."""
        return self.encode_prompt([""])

    def image_cond(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Cond:
        """Returns nothing: the network isn't told of sizes."""
        return {}

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Returns the transformer's velocity [B, C, h, w] at x_t [B, C, h, w], t [B] in [0, 1]."""
        clip = pad(cond["hidden"], (0, self.joint_width - cond["hidden"].shape[-1]))
        t5 = cond["t5"] if "t5" in cond else clip.new_zeros(len(clip), T5_TOKENS, self.joint_width)
        return self.denoiser(
            hidden_states=x_t.to(self.dtype),
            timestep=t * self.process.T,
            encoder_hidden_states=torch.cat([clip, t5], dim=1).to(self.dtype),
            pooled_projections=cond["pooled"].to(self.dtype),
            return_dict=False,
            **family.asked(cond),
        )[0]

    def fingerprint(self) -> dict[str, Any]:
        """Returns checksums of all that an encoding depends on; files' names and contents, not where they lie."""
        folders = ("vae", *TEXT, *(T5 if self.has_t5 else ()))
        return {"family": "sd3", "t5": self.has_t5, **{name: hash_folder(self.path / name) for name in folders}}


class MMDiT(DiffusersConfig):
    """transformer/config.json of diffusers' SD3Transformer2DModel."""

    class_name: Literal["SD3Transformer2DModel"] = Field(alias="_class_name")
    sample_size: Size = 128
    """The size h = w that it was made for; its table of positions is cut from the middle for any other."""
    patch_size: Annotated[int, Field(ge=1, le=64)] = 2
    in_channels: Size
    num_layers: Few = 18
    attention_head_dim: Size = 64
    num_attention_heads: Few = 18
    joint_attention_dim: Size
    caption_projection_dim: Size = 1152
    pooled_projection_dim: Size
    out_channels: Size | None = 16
    pos_embed_max_size: Size = 96
    dual_attention_layers: tuple[()] | list[Annotated[int, Field(ge=0, le=255)]] = ()
    qk_norm: Literal["rms_norm"] | None = None

    def problems(self) -> list[str]:
        """Lists widths that must be equal and aren't."""
        found = []
        width = self.num_attention_heads * self.attention_head_dim
        if self.caption_projection_dim != width:
            found.append(
                f"caption_projection_dim: expected num_attention_heads * attention_head_dim = {width}, "
                f"found {self.caption_projection_dim}"
            )
        if width > 65536:
            found.append(f"num_attention_heads: expected a width of 65536 at most, found {width}")
        if any(layer >= self.num_layers for layer in self.dual_attention_layers):
            found.append(
                f"dual_attention_layers: expected layers below num_layers {self.num_layers}, "
                f"found {self.dual_attention_layers}"
            )
        return found


load = SD3
