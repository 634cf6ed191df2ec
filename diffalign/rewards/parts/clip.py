"""CLIP's two towers and their tokenizer, from a local folder, as rewards use them.

Legend: B images, H W pixels, S side of the towers' square, L tokens, D width of the embeddings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffalign.core.errors import UserError
from diffalign.models.parts.encoders import clip_length, clip_tokens
from diffalign.models.parts.loading import load_part, load_tokenizer
from diffalign.rewards.parts.pixels import normalised, unit

Square = Callable[[Tensor, int], Tensor]
"""Makes images [B, 3, H, W] in [0, 1] squares [B, 3, S, S]."""
Sizes = Mapping[str, Mapping[str, int | str]]
"""Values of a CLIP's config.json that decide what it computes, by section."""


def tower(width: int, layers: int, heads: int, activation: str, projection: int) -> dict[str, int | str]:
    """Returns what both kinds of tower have in config.json; the network between has four times the width."""
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "projection_dim": projection,
    }


TEXT = {"vocab_size": 49408, "max_position_embeddings": 77}
VISION = {"image_size": 224, "patch_size": 14}
BACKBONES: dict[str, Sizes] = {
    "ViT-L/14": {
        "text_config": {**tower(768, 12, 12, "quick_gelu", 768), **TEXT},
        "vision_config": {**tower(1024, 24, 16, "quick_gelu", 768), **VISION},
    },
    "ViT-H/14": {
        "text_config": {**tower(1024, 24, 16, "gelu", 1024), **TEXT},
        "vision_config": {**tower(1280, 32, 16, "gelu", 1024), **VISION},
    },
}
"""OpenAI's CLIP ViT-L/14 and LAION's ViT-H/14. The activation matters: OpenAI's towers have another GELU."""


@dataclass(frozen=True)
class Clip:
    """Embeds images and prompts, `batch_size` at a time; gradients reach the pixels, never the weights.

    Embeddings are computed in the network's precision, cosines in float32. `square` is the reward's preprocessing,
    `scale` the factor that CLIP's training learnt for cosines, about 100.
    """

    model: Any
    tokenizer: Any
    square: Square
    batch_size: int
    scale: float

    def cosines(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns cosines [B], float32, of images [B, 3, H, W] in [-1, 1] with their prompts.

        NaN where a pixel isn't finite. ValueError where there aren't as many prompts as images.
        """
        if len(prompts) != len(pixels):
            raise ValueError(f"expected a prompt for each of {len(pixels)} images, got {len(prompts)}")
        size = self.batch_size
        parts = [
            (self.images(pixels[i : i + size]) * self.texts(prompts[i : i + size])).sum(dim=1)
            for i in range(0, len(prompts), size)
        ]
        return torch.cat(parts)

    def images(self, pixels: Tensor) -> Tensor:
        """Returns embeddings [B, D] of length 1, float32, of images [B, 3, H, W] in [-1, 1]."""
        return embedded(self.model, self.square, pixels)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Returns embeddings [B, D] of length 1, float32, of prompts, cut to the L tokens that the tower reads."""
        tokens = clip_tokens(self.tokenizer, self.model.text_model, prompts)
        return normalize(self.model.get_text_features(input_ids=tokens).pooler_output.float(), dim=1)

    def tokens_cut(self, prompts: Sequence[str]) -> Tensor:
        """Counts, for each prompt, the tokens [B] beyond the L that the text tower reads: they aren't judged."""
        found = self.tokenizer(list(prompts), truncation=False, padding=False, verbose=False).input_ids
        length = clip_length(self.model.text_model)
        return torch.tensor([max(len(tokens) - length, 0) for tokens in found])


def embedded(model: Any, square: Square, pixels: Tensor) -> Tensor:
    """Returns embeddings [B, D] of length 1, float32, of images [B, 3, H, W] in [-1, 1], by CLIP's image tower."""
    images = normalised(square(unit(pixels.to(model.device)), model.config.vision_config.image_size))
    return normalize(model.get_image_features(pixel_values=images.to(model.dtype)).pooler_output.float(), dim=1)


def load(folder: Path, backbone: str | None, square: Square, batch_size: int, device: torch.device | str) -> Clip:
    """Loads both towers of a CLIP and its tokenizer; UserError if the folder holds another kind of CLIP.

    `backbone` is the kind, None: any.
    """
    from transformers import CLIPTokenizer

    model = load_model(folder, backbone, device)
    tokenizer = load_tokenizer(CLIPTokenizer, folder, model.config.text_config.vocab_size)
    # 2 is how old config files say "the last token of the vocabulary", which transformers knows.
    pooled = model.config.text_config.eos_token_id
    if pooled not in (2, tokenizer.eos_token_id):
        raise UserError(
            f"{folder / 'config.json'}: text_config.eos_token_id: expected the tokenizer's {tokenizer.eos_token_id}, "
            f"or 2 in an old file, found {pooled}: a prompt's embedding is read there. Take the publisher's file again."
        )
    scale = float(model.logit_scale.double().exp())  # before it's rounded, by up to 2% in bfloat16
    return Clip(model.to(precision(device)), tokenizer, square, batch_size, scale)


def load_model(folder: Path, backbone: str | None, device: torch.device | str) -> Any:
    """Loads both towers of a CLIP, in float32; UserError unless it's one of the kind `backbone`, None: any."""
    from transformers import CLIPModel

    model = load_part(CLIPModel, folder, torch.device(device), torch.float32)
    for section, values in (BACKBONES[backbone] if backbone else {}).items():
        for key, expected in values.items():
            found = getattr(getattr(model.config, section), key)
            if found != expected:
                raise UserError(
                    f"{folder / 'config.json'}: {section}.{key}: expected {expected!r}, as CLIP {backbone} has, found "
                    f"{found!r}. This reward was trained with, or is named for, that network: point its path at one."
                )
    return model


def precision(device: torch.device | str) -> torch.dtype:
    """Returns the precision of a reward's network: bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
