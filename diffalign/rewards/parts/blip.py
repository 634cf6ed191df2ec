"""ImageReward's BLIP: an image tower, and a text tower that looks at the image, from one converted file.

Legend: B images, S side of the towers' square, L tokens, D width of the text tower.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.rewards.parts import head, tensors

SIZES: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "hidden_size": 768,
        "encoder_hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 30524,
        "max_position_embeddings": 512,
        "is_decoder": True,
    },
}
"""BLIP's large image tower and its text tower; as a decoder it has the attention to the image, which it needs."""
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Tensors of the checkpoint that scoring doesn't use: BLIP's contrastive projections, and the numbers 0, 1, 2."""
TOWER = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def build() -> tuple[Any, Any]:
    """Returns both towers of transformers' classes on the meta device: shapes without numbers."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    with torch.device("meta"):
        vision = BlipVisionModel(BlipVisionConfig(**SIZES["vision"]))
        text = BlipTextModel(BlipTextConfig(**SIZES["text"]), add_pooling_layer=False)
    return vision.eval().requires_grad_(False), text.eval().requires_grad_(False)


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the converted file's tensors: `vision.*`, `text.*`, and the head's `layers.*`."""
    vision, text = build()
    towers: list[tuple[str, nn.Module]] = [("vision", vision), ("text", text)]
    found = {f"{name}.{key}": tuple(value.shape) for name, tower in towers for key, value in tower.state_dict().items()}
    return found | head.shapes(SIZES["text"]["hidden_size"])


def load(file: Path, device: torch.device | str, dtype: torch.dtype) -> tuple[Any, Any, Tensor, float]:
    """Loads (image tower, text tower, weight [D], bias) from a converted file, frozen; the head stays in float32."""
    state = tensors.read(file, shapes())
    vision, text = build()
    for name, tower in (("vision", vision), ("text", text)):
        inside = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        tower.load_state_dict(inside, assign=True)
        tower.requires_grad_(False)
    # The only tensor that isn't in the file: the numbers of the places.
    text.embeddings.position_ids = torch.arange(SIZES["text"]["max_position_embeddings"])[None]
    weight, bias = head.folded(state)
    return vision.to(device, dtype), text.to(device, dtype), weight.to(device), bias


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the converted file's tensors for the checkpoint's; UserError for a key that ImageReward doesn't have."""
    return {renamed(key): value.contiguous() for key, value in state.items() if not key.startswith(UNUSED)}


def renamed(key: str) -> str:
    """Returns the name that a tensor of the checkpoint has in the converted file."""
    if key.startswith("mlp.layers."):
        return key.removeprefix("mlp.")
    if key.startswith("blip.text_encoder."):
        return f"text.{key.removeprefix('blip.text_encoder.')}"
    if key.startswith("blip.visual_encoder."):
        inside = key.removeprefix("blip.visual_encoder.")
        if inside in TOWER:
            return f"vision.{TOWER[inside]}"
        module, _, kind = inside.rpartition(".")
        if module in TOWER:
            return f"vision.{TOWER[module]}.{kind}"
        blocks, _, rest = module.partition(".")
        number, _, part = rest.partition(".")
        if blocks == "blocks" and part in LAYER:
            return f"vision.encoder.layers.{number}.{LAYER[part]}.{kind}"
    raise UserError(
        f"expected the keys of ImageReward, such as blip.visual_encoder.cls_token; found {key!r}. Take ImageReward.pt "
        "from its publisher again."
    )
