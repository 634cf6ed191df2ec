"""Denoisers without weights, from a model folder's config files alone, for counting what training them takes.

B images, C latent channels, h w latent height and width, L tokens. Everything is on PyTorch's meta device: shapes
without memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.diffusion.process import Cond
from diffalign.models.loading import read_config
from diffalign.models.sd3 import T5, T5_TOKENS

Shapes = dict[str, tuple[int, ...]]
Inputs = Callable[[Tensor, Tensor], dict[str, Any]]
TIME_IDS = 6
"""How many numbers SDXL's UNet is told about an image's sizes."""


@dataclass(frozen=True)
class Skeleton:
    """A denoiser on the meta device, and what its inputs look like."""

    network: nn.Module
    inputs: Inputs
    """The network's arguments for x_t and t."""
    latent: tuple[int, int, int]
    """(C, h, w)."""
    prompt: Shapes
    """The tensors of one prompt's encoding, as a shard has them."""

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's output [B, C, h, w] at x_t [B, C, h, w] and t [B]; of `cond` the shapes are known."""
        output: Tensor = self.network(**self.inputs(x_t, t), return_dict=False)[0]
        return output


def skeleton(model: Path, denoiser: Path, resolution: int) -> Skeleton:
    """The denoiser of the folder `denoiser`, with the VAE's and text encoders' configs of `model`, at some resolution.

    Raises UserError where a config is missing or lacks a key, or is of a network that can't be counted.
    """
    config = network_config(denoiser)
    name = config.get("_class_name")
    if name not in NETWORKS:
        raise UserError(f"{denoiser / 'config.json'}: _class_name: expected one of {sorted(NETWORKS)}, got {name!r}")
    blocks = network_config(model / "vae", "block_out_channels")["block_out_channels"]
    side = resolution // 2 ** (len(blocks) - 1)
    latent = (network_config(denoiser, "in_channels")["in_channels"], side, side)
    prompt, inputs = NETWORKS[name](model, denoiser)
    import diffusers

    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, name).from_config(config)
    return Skeleton(network, inputs, latent, prompt)


def unet(model: Path, folder: Path) -> tuple[Shapes, Inputs]:
    """A UNet's, of Stable Diffusion 1.x, 2.x or XL: a prompt's tensors, and its arguments."""
    config = network_config(folder, "cross_attention_dim")
    text = network_config(model / "text_encoder", "max_position_embeddings")
    hidden = (text["max_position_embeddings"], config["cross_attention_dim"])
    if config.get("addition_embed_type") != "text_time":
        return {"hidden": hidden}, lambda x_t, t: {
            "sample": x_t,
            "timestep": t,
            "encoder_hidden_states": empty(x_t, hidden),
        }
    config = network_config(folder, "projection_class_embeddings_input_dim", "addition_time_embed_dim")
    pooled = (config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"],)
    return {"hidden": hidden, "pooled": pooled}, lambda x_t, t: {
        "sample": x_t,
        "timestep": t,
        "encoder_hidden_states": empty(x_t, hidden),
        "added_cond_kwargs": {"text_embeds": empty(x_t, pooled), "time_ids": empty(x_t, (TIME_IDS,))},
    }


def mmdit(model: Path, folder: Path) -> tuple[Shapes, Inputs]:
    """Stable Diffusion 3's transformer's: T5's tokens are there even where zeros stand for them."""
    config = network_config(folder, "joint_attention_dim", "pooled_projection_dim")
    keys = ("max_position_embeddings", "hidden_size")
    texts = [network_config(model / name, *keys) for name in ("text_encoder", "text_encoder_2")]
    tokens, wide = texts[0]["max_position_embeddings"], config["joint_attention_dim"]
    pooled = (config["pooled_projection_dim"],)
    prompt: Shapes = {"hidden": (tokens, sum(text["hidden_size"] for text in texts)), "pooled": pooled}
    if (model / T5[0]).is_dir():
        prompt["t5"] = (T5_TOKENS, wide)
    return prompt, lambda x_t, t: {
        "hidden_states": x_t,
        "timestep": t,
        "encoder_hidden_states": empty(x_t, (tokens + T5_TOKENS, wide)),
        "pooled_projections": empty(x_t, pooled),
    }


NETWORKS = {"UNet2DConditionModel": unet, "SD3Transformer2DModel": mmdit}
"""By the class that a network's config.json names."""


def network_config(folder: Path, *keys: str) -> dict[str, Any]:
    """A network's config; UserError if it can't be read, or has no value for one of these keys."""
    path = folder / "config.json"
    config = read_config(path, "network config")
    lacking = [key for key in keys if config.get(key) is None]
    if lacking:
        raise UserError(
            f"{path}: expected a network's config with a value for {', '.join(keys)}, found none for "
            f"{', '.join(lacking)}. Is it the model's own file, as diffusers writes it?"
        )
    return config


def empty(x_t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape for each image."""
    return torch.empty(len(x_t), *shape, device=x_t.device)
