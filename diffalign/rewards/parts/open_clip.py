"""The keys of open_clip's checkpoints of CLIP, turned into those of transformers' CLIPModel; the computation stays.

open_clip keeps a layer's query, key and value in one matrix, and its projections transposed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.rewards.parts import clip

WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
TOWERS = {
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}
LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""A layer's modules with `weight` and `bias`."""
JOINED = {"attn.in_proj_weight": "weight", "attn.in_proj_bias": "bias"}
"""Query, key and value, one above the other."""


def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns CLIPModel's tensors for open_clip's; UserError for a key that an open_clip ViT doesn't have."""
    return {name: tensor.contiguous() for key, value in state.items() for name, tensor in pieces(key, value)}


def pieces(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of CLIPModel that one of open_clip's becomes, with their names."""
    tower = next((prefix for prefix in TOWERS if key.startswith(prefix)), None)
    if key in WHOLE:
        yield WHOLE[key], value
    elif key in TRANSPOSED:
        yield TRANSPOSED[key], value.T
    elif tower is not None:
        number, _, inside = key.removeprefix(tower).partition(".")
        module, _, kind = inside.rpartition(".")
        layer = f"{TOWERS[tower]}{number}"
        if inside in JOINED:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                yield f"{layer}.self_attn.{letter}_proj.{JOINED[inside]}", part.clone()
        elif module in LAYER and kind in ("weight", "bias"):
            yield f"{layer}.{LAYER[module]}.{kind}", value
        else:
            raise unknown(key)
    else:
        raise unknown(key)


def unknown(key: str) -> UserError:
    """Returns the error for a key that isn't of an open_clip ViT."""
    return UserError(
        f"expected the keys of an open_clip ViT, such as visual.proj; found {key!r}. Take the publisher's file again, "
        "or one of the kind that this reward has."
    )


def config(backbone: str) -> Any:
    """Returns transformers' config of a backbone; the vocabulary's last two tokens begin and end a prompt."""
    from transformers import CLIPConfig

    text, vision = clip.BACKBONES[backbone]["text_config"], clip.BACKBONES[backbone]["vision_config"]
    last = int(text["vocab_size"]) - 1
    ends = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    return CLIPConfig(text_config={**text, **ends}, vision_config=dict(vision), projection_dim=vision["projection_dim"])


def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of CLIPModel's tensors for a backbone, by name."""
    from transformers import CLIPModel

    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in CLIPModel(config(backbone)).state_dict().items()}
