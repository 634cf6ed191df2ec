"""HPSv3 as its authors compute it, written anew on plain tensors, and tiny random weights in its checkpoint's layout.

P patches, N image tokens, L tokens, V width of the image tower, D of the text tower, K width of a head.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, silu, softmax

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
VOCABULARY = 256 + len(SPECIAL) + 1
PIXELS = 112 * 112
SIZES: dict[str, dict[str, Any]] = {
    "vision": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 4, "hidden_size": 48},
    "text": {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
    },
}
State = Mapping[str, Tensor]


def shapes(vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of HPSv3.safetensors: the image tower, the text tower, the language model's last layer, the head."""
    v, d, inner = vision["embed_dim"], text["hidden_size"], text["intermediate_size"]
    few = d // text["num_attention_heads"] * text["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (v, 3, 2, 14, 14)}
    layers = [("visual.merger.mlp.0", 4 * v, 4 * v), ("visual.merger.mlp.2", d, 4 * v)]
    norms = [("visual.merger.ln_q", v)]
    for i in range(vision["depth"]):
        at, wide = f"visual.blocks.{i}", v * vision["mlp_ratio"]
        norms += [(f"{at}.norm1", v), (f"{at}.norm2", v)]
        layers += [(f"{at}.attn.qkv", 3 * v, v), (f"{at}.attn.proj", v, v)]
        layers += [(f"{at}.mlp.fc1", wide, v), (f"{at}.mlp.fc2", v, wide)]
    layers += [("rm_head.0", 1024, d), ("rm_head.3", 16, 1024), ("rm_head.5", 2, 16)]
    bare = [("model.embed_tokens", text["vocab_size"], d), ("lm_head", text["vocab_size"], d)]
    found["model.norm.weight"] = (d,)
    for i in range(text["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found |= {f"{at}.input_layernorm.weight": (d,), f"{at}.post_attention_layernorm.weight": (d,)}
        layers += [(f"{at}.self_attn.{name}_proj", out, d) for name, out in (("q", d), ("k", few), ("v", few))]
        bare += [(f"{at}.self_attn.o_proj", d, d), (f"{at}.mlp.gate_proj", inner, d), (f"{at}.mlp.up_proj", inner, d)]
        bare += [(f"{at}.mlp.down_proj", d, inner)]
    for name, out, into in (*layers, *bare):
        found[f"{name}.weight"] = (out, into)
    found |= {f"{name}.bias": (out,) for name, out, _ in layers}
    found |= {f"{name}.{kind}": (width,) for name, width in norms for kind in ("weight", "bias")}
    return found


def random_state(seed: int) -> dict[str, Tensor]:
    """Tensors that tell images and prompts apart: norms about 1, the others small."""
    draws = torch.Generator().manual_seed(seed)
    found = {}
    for name, size in shapes(SIZES["vision"], SIZES["text"]).items():
        noise = torch.randn(size, generator=draws)
        norm = any(part in name for part in ("norm", "ln_q")) and name.endswith("weight")
        found[name] = 1 + 0.1 * noise if norm else noise * (0.5 if len(size) == 1 else 2 * size[-1] ** -0.5)
    return found


def write_tokenizer(file: Path) -> None:
    """A token a byte, and Qwen2-VL's special ones behind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(file))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates halves of the last dimension by angles [L, K / 2]: x is [heads, L, K]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attended(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention of [heads, L, K], back as [L, heads * K]."""
    weights = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if causal:
        weights = weights.masked_fill(torch.ones(weights.shape[1:]).triu(1).bool(), -torch.inf)
    return (softmax(weights, dim=-1) @ v).transpose(0, 1).flatten(1)


def cut(image: np.ndarray, down: int, across: int) -> Tensor:
    """Patches [P, 3 * 2 * 14 * 14] of an image [H, W, 3] in [0, 1], normalised; those of a token follow one another."""
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    image = (image - mean) / std
    found = []
    for y in range(0, down, 2):
        for x in range(0, across, 2):
            for i, j in ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)):
                patch = image[14 * i : 14 * i + 14, 14 * j : 14 * j + 14].transpose(2, 0, 1)
                found.append(np.stack([patch, patch], axis=1).ravel())
    return torch.from_numpy(np.stack(found))


def see(state: State, patches: Tensor, down: int, across: int) -> Tensor:
    """Image tokens [N, D] of one image's patches."""
    sizes = SIZES["vision"]
    heads, width = sizes["num_heads"], sizes["embed_dim"] // sizes["num_heads"]

    def layer(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"visual.{name}.weight"], state[f"visual.{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"visual.{name}.weight"], state[f"visual.{name}.bias"], 1e-6)

    rows = torch.tensor(
        [(y + i, x + j) for y in range(0, down, 2) for x in range(0, across, 2) for i in (0, 1) for j in (0, 1)]
    )
    frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
    angles = (rows[..., None] * frequencies).flatten(1)  # [P, K / 2]: of the row, then of the column
    x = patches @ state["visual.patch_embed.proj.weight"].flatten(1).T
    for i in range(sizes["depth"]):
        qkv = layer(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x)).reshape(len(x), 3, heads, width)
        q, k, v = qkv.permute(1, 2, 0, 3)
        x = x + layer(f"blocks.{i}.attn.proj", attended(turned(q, angles), turned(k, angles), v, causal=False))
        inner = layer(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x))
        x = x + layer(f"blocks.{i}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    merged = norm("merger.ln_q", x).reshape(len(x) // 4, -1)
    return layer("merger.mlp.2", gelu(layer("merger.mlp.0", merged)))


def read(state: State, ids: list[int], tokens: Tensor, place: int) -> Tensor:
    """Last states [L, D] of one text in which image tokens [N, D] stand at `place`; positions count all tokens."""
    sizes = SIZES["text"]
    heads, few = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    width = sizes["hidden_size"] // heads

    def rms(name: str, x: Tensor) -> Tensor:
        return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * state[f"model.{name}.weight"]

    x = state["model.embed_tokens.weight"][ids].clone()
    x[torch.tensor(ids) == place] = tokens
    frequencies = 1e6 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(len(ids))[:, None] * frequencies
    for i in range(sizes["num_hidden_layers"]):
        at = f"layers.{i}"
        y = rms(f"{at}.input_layernorm", x)
        q, k, v = (
            linear(y, state[f"model.{at}.self_attn.{n}_proj.weight"], state[f"model.{at}.self_attn.{n}_proj.bias"])
            .reshape(len(ids), count, width)
            .transpose(0, 1)
            for n, count in (("q", heads), ("k", few), ("v", few))
        )
        q, k = turned(q, angles), turned(k, angles)
        k, v = (part.repeat_interleave(heads // few, dim=0) for part in (k, v))
        x = x + attended(q, k, v, causal=True) @ state[f"model.{at}.self_attn.o_proj.weight"].T
        y = rms(f"{at}.post_attention_layernorm", x)
        gate, up = (y @ state[f"model.{at}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (silu(gate) * up) @ state[f"model.{at}.mlp.down_proj.weight"].T
    return rms("norm", x)


def score(state: State, image: np.ndarray, ids: list[int], place: int, reward: int, size: tuple[int, int]) -> float:
    """HPSv3's mean for an image, uint8 [H, W, 3], that is resized to `size`, and a text's tokens; in float64."""
    exact = {name: value.double() for name, value in state.items()}
    shown = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC), np.float64) / 255
    down, across = size[0] // 14, size[1] // 14
    tokens = see(exact, cut(shown, down, across), down, across)
    x = read(exact, ids, tokens, place)[ids.index(reward)]
    for number in (0, 3, 5):
        x = linear(x, exact[f"rm_head.{number}.weight"], exact[f"rm_head.{number}.bias"])
        x = x.relu() if number != 5 else x
    return float(x[0])
