"""The frozen encoders' computations that families share: a KL autoencoder's latents, CLIP's hidden states.

B batch, C latent channels, h w latent and H W pixel height and width, L tokens, D text width.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor


class HasVAE(Protocol):
    """A family with its VAE loaded."""

    vae: Any


@torch.no_grad()
def encode_image(family: HasVAE, pixels: Tensor) -> dict[str, Tensor]:
    """Returns `mean` and `logvar` [B, C, h, w], float32, of the scaled latents for pixels [B, 3, H, W] in [-1, 1].

    Families take it as their method.
    """
    vae = family.vae
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    scale, shift = scaling(vae)
    logvar = posterior.logvar.float() + 2 * torch.log(torch.tensor(scale))
    return {"mean": (posterior.mean.float() - shift) * scale, "logvar": logvar}


def decode(family: HasVAE, x0: Tensor) -> Tensor:
    """Returns pixels [B, 3, H, W], about [-1, 1] and not clipped, for scaled latents [B, C, h, w]; differentiable.

    Families take it as their method.
    """
    vae = family.vae
    scale, shift = scaling(vae)
    latents = x0.to(vae.device, vae.dtype) / scale + shift
    return cast(Tensor, vae.decode(latents, return_dict=False)[0]).float()


def scaling(vae: Any) -> tuple[float, float]:
    """Returns (scale, shift) of an autoencoder's latents: the denoiser sees (z - shift) * scale."""
    return float(vae.config.scaling_factor), float(vae.config.shift_factor or 0.0)


def clip_tokens(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Tensor:
    """Returns token ids [B, L], padded and cut to the encoder's length."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=clip_length(encoder),
        return_tensors="pt",
    )
    return cast(Tensor, tokens.input_ids.to(encoder.device))


def count_cut(tokenizer: Any, length: int, prompts: Sequence[str]) -> int:
    """Counts the prompts that have more tokens than the `length` that an encoder reads: what is beyond is cut off."""
    found = tokenizer(list(prompts), truncation=False, padding=False, verbose=False)
    return sum(len(tokens) > length for tokens in found.input_ids)


def clip_length(encoder: Any) -> int:
    """Returns the tokens that a CLIP text encoder reads."""
    return int(encoder.config.max_position_embeddings)


def clip_penultimate(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Returns (hidden [B, L, D], first): the state before the last layer, float32, and the encoder's first output.

    That output is the pooled, projected embedding [B, P] of an encoder with a projection.
    """
    out = encoder(clip_tokens(tokenizer, encoder, prompts), output_hidden_states=True)
    return out.hidden_states[-2].float(), out[0].float()
