"""CLIP as open_clip computes it, written anew on plain tensors, and tiny random weights in its layout.

B images, S side, N patches and the class token, L tokens, W width, D width of the embeddings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, softmax

from diffalign.rewards.parts import clip
from diffalign.rewards.parts.open_clip import converted
from tests.helpers.tiny import make_tokenizer, write_vocabulary

HEADS = 2
SIDE, PATCH, TOKENS = 28, 7, 12
VISION, TEXT, OUT = 16, 12, 8
State = Mapping[str, Tensor]


def shapes(
    vision: tuple[int, int], text: tuple[int, int], out: int, vocabulary: int, tokens: int, side: int, patch: int
) -> dict[str, tuple[int, ...]]:
    """The tensors of an open_clip ViT; towers are (width, layers)."""
    found: dict[str, tuple[int, ...]] = {
        "positional_embedding": (tokens, text[0]),
        "text_projection": (text[0], out),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, text[0]),
        "ln_final.weight": (text[0],),
        "ln_final.bias": (text[0],),
        "visual.class_embedding": (vision[0],),
        "visual.positional_embedding": ((side // patch) ** 2 + 1, vision[0]),
        "visual.proj": (vision[0], out),
        "visual.conv1.weight": (vision[0], 3, patch, patch),
    }
    for norm in ("visual.ln_pre", "visual.ln_post"):
        found |= {f"{norm}.weight": (vision[0],), f"{norm}.bias": (vision[0],)}
    for prefix, (w, layers) in {"visual.": vision, "": text}.items():
        for i in range(layers):
            at = f"{prefix}transformer.resblocks.{i}"
            found |= {f"{at}.attn.in_proj_weight": (3 * w, w), f"{at}.attn.in_proj_bias": (3 * w,)}
            found |= {f"{at}.attn.out_proj.weight": (w, w), f"{at}.attn.out_proj.bias": (w,)}
            found |= {f"{at}.mlp.c_fc.weight": (4 * w, w), f"{at}.mlp.c_fc.bias": (4 * w,)}
            found |= {f"{at}.mlp.c_proj.weight": (w, 4 * w), f"{at}.mlp.c_proj.bias": (w,)}
            for norm in ("ln_1", "ln_2"):
                found |= {f"{at}.{norm}.weight": (w,), f"{at}.{norm}.bias": (w,)}
    return found


def random_state(seed: int) -> dict[str, Tensor]:
    """A tiny ViT's weights, large enough that every part of it counts; the factor of cosines is 100."""
    draws = torch.Generator().manual_seed(seed)
    sizes = shapes((VISION, 2), (TEXT, 2), OUT, len(make_tokenizer(TOKENS)), TOKENS, SIDE, PATCH)
    state = {name: torch.randn(size, generator=draws) * 0.5 for name, size in sizes.items()}
    return state | {"logit_scale": torch.tensor(100.0).log()}


def sizes(activation: str) -> dict[str, Any]:
    """What `clip.BACKBONES` says of the tiny ViT."""
    vocabulary = len(make_tokenizer(TOKENS))
    return {
        "text_config": {
            **clip.tower(TEXT, 2, HEADS, activation, OUT),
            "vocab_size": vocabulary,
            "max_position_embeddings": TOKENS,
        },
        "vision_config": {
            **clip.tower(VISION, 2, HEADS, activation, OUT),
            "image_size": SIDE,
            "patch_size": PATCH,
        },
    }


def make_folder(folder: Path, state: State, activation: str) -> Path:
    """Writes a CLIP and its tokenizer as they come from the hub."""
    from transformers import CLIPConfig, CLIPModel

    special = make_tokenizer(TOKENS)
    ends = {key: getattr(special, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    parts = sizes(activation)
    model = CLIPModel(CLIPConfig(projection_dim=OUT, **parts | {"text_config": parts["text_config"] | ends}))
    model.load_state_dict(converted(state))
    model.save_pretrained(folder)
    write_vocabulary(folder)
    return folder


def embed_images(state: State, images: Tensor, activation: str) -> Tensor:
    """Embeddings [B, D] of length 1 of normalised images [B, 3, S, S]."""
    x = conv2d(images, state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = normed(state, "visual.ln_pre", x + state["visual.positional_embedding"])
    x = transformed(state, "visual.", x, None, activation)
    x = normed(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    return x / x.norm(dim=1, keepdim=True)


def embed_prompts(state: State, prompts: Sequence[str], activation: str) -> Tensor:
    """Embeddings [B, D] of length 1, read at each prompt's end, the vocabulary's last token; padded with 0."""
    special = make_tokenizer(TOKENS)
    ids = torch.zeros(len(prompts), TOKENS, dtype=torch.long)
    for row, prompt in zip(ids, prompts, strict=True):
        found = special(prompt).input_ids
        found = found if len(found) <= TOKENS else [*found[: TOKENS - 1], special.eos_token_id]
        row[: len(found)] = torch.tensor(found)
    causal = torch.full((TOKENS, TOKENS), -torch.inf, dtype=state["text_projection"].dtype).triu(1)
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    x = normed(state, "ln_final", transformed(state, "", x, causal, activation))
    x = x[torch.arange(len(x)), ids.argmax(dim=1)] @ state["text_projection"]
    return x / x.norm(dim=1, keepdim=True)


def transformed(state: State, prefix: str, x: Tensor, mask: Tensor | None, activation: str) -> Tensor:
    """The layers of a tower on [B, N, W]: attention, then a network, each on the normed state and added to it."""
    for i in range(2):
        at = f"{prefix}transformer.resblocks.{i}."
        layer = {name.removeprefix(at): value for name, value in state.items() if name.startswith(at)}
        y = normed(layer, "ln_1", x) @ layer["attn.in_proj_weight"].T + layer["attn.in_proj_bias"]
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in y.chunk(3, dim=2))
        weights = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        y = (softmax(weights if mask is None else weights + mask, dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + y @ layer["attn.out_proj.weight"].T + layer["attn.out_proj.bias"]
        y = normed(layer, "ln_2", x) @ layer["mlp.c_fc.weight"].T + layer["mlp.c_fc.bias"]
        y = gelu(y) if activation == "gelu" else y * torch.sigmoid(1.702 * y)
        x = x + y @ layer["mlp.c_proj.weight"].T + layer["mlp.c_proj.bias"]
    return x


def normed(state: State, name: str, x: Tensor) -> Tensor:
    """A layer norm."""
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)
