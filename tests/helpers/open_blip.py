"""ImageReward as its authors compute it, written anew on plain tensors, and tiny random weights in its layout.

B images, S side, N patches and the class token, L tokens, D width of the text tower, V of the image tower.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
SIZES: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "hidden_size": 12,
        "encoder_hidden_size": 16,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(WORDS) + 2,
        "max_position_embeddings": 40,
        "is_decoder": True,
    },
}
"""What `blip.SIZES` says of the tiny towers; the vocabulary has BLIP's two further tokens."""
State = Mapping[str, Tensor]


def shapes(vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of ImageReward.pt: BLIP's image tower, its text tower, what scoring leaves out, the head."""
    v, d, patch = vision["hidden_size"], text["hidden_size"], vision["patch_size"]
    image, words = "blip.visual_encoder", "blip.text_encoder"
    found: dict[str, tuple[int, ...]] = {
        f"{image}.cls_token": (1, 1, v),
        f"{image}.pos_embed": (1, (vision["image_size"] // patch) ** 2 + 1, v),
        f"{image}.patch_embed.proj.weight": (v, 3, patch, patch),
        f"{image}.patch_embed.proj.bias": (v,),
        f"{words}.embeddings.position_ids": (1, text["max_position_embeddings"]),
        f"{words}.embeddings.word_embeddings.weight": (text["vocab_size"], d),
        f"{words}.embeddings.position_embeddings.weight": (text["max_position_embeddings"], d),
    }
    layers: list[tuple[str, int, int]] = [("blip.vision_proj", 256, v), ("blip.text_proj", 256, d)]
    norms = [(f"{image}.norm", v), (f"{words}.embeddings.LayerNorm", d)]
    for i in range(vision["num_hidden_layers"]):
        at, inner = f"{image}.blocks.{i}", vision["intermediate_size"]
        norms += [(f"{at}.norm1", v), (f"{at}.norm2", v)]
        layers += [(f"{at}.attn.qkv", 3 * v, v), (f"{at}.attn.proj", v, v)]
        layers += [(f"{at}.mlp.fc1", inner, v), (f"{at}.mlp.fc2", v, inner)]
    for i in range(text["num_hidden_layers"]):
        at, inner = f"{words}.encoder.layer.{i}", text["intermediate_size"]
        for kind, source in (("attention", d), ("crossattention", v)):
            layers += [(f"{at}.{kind}.self.query", d, d), (f"{at}.{kind}.self.key", d, source)]
            layers += [(f"{at}.{kind}.self.value", d, source), (f"{at}.{kind}.output.dense", d, d)]
            norms += [(f"{at}.{kind}.output.LayerNorm", d)]
        layers += [(f"{at}.intermediate.dense", inner, d), (f"{at}.output.dense", d, inner)]
        norms += [(f"{at}.output.LayerNorm", d)]
    widths = (d, 1024, 128, 64, 16, 1)
    layers += [(f"mlp.layers.{n}", widths[j + 1], widths[j]) for j, n in enumerate((0, 2, 4, 6, 7))]
    for name, out, into in layers:
        found |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    for name, width in norms:
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return found


def random_state(seed: int) -> dict[str, Tensor]:
    """Tiny weights, large enough that every part of them counts."""
    draws = torch.Generator().manual_seed(seed)
    state = {}
    for name, size in shapes(**SIZES).items():
        scale = 0.5 if not name.startswith("mlp") else 1.5 / max(size[-1], 2) ** 0.5
        state[name] = torch.randn(size, generator=draws) * scale
    return state | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


def write_vocabulary(folder: Path) -> None:
    """vocab.txt: a token a letter."""
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))


def scores(state: State, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Scores [B] of normalised images [B, 3, S, S] for prompts of lower-case letters and spaces."""
    x = states(state, seen(state, images), prompts)[:, 0]
    for number in (0, 2, 4, 6, 7):
        x = linear(x, state[f"mlp.layers.{number}.weight"], state[f"mlp.layers.{number}.bias"])
    return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


def seen(state: State, images: Tensor) -> Tensor:
    """The image tower's states [B, N, V]: a ViT whose last norm is on all of them."""
    at = "blip.visual_encoder"
    patch = state[f"{at}.patch_embed.proj.weight"]
    x = conv2d(images, patch, state[f"{at}.patch_embed.proj.bias"], stride=patch.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state[f"{at}.cls_token"].expand(len(x), 1, -1), x], dim=1) + state[f"{at}.pos_embed"]
    for i in range(2):
        block = f"{at}.blocks.{i}"
        q, k, v = full(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, 1e-6)).chunk(3, dim=2)
        x = x + full(state, f"{block}.attn.proj", attended(q, k, v, None))
        y = gelu(full(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x, 1e-6)))
        x = x + full(state, f"{block}.mlp.fc2", y)
    return normed(state, f"{at}.norm", x, 1e-6)


def states(state: State, image: Tensor, prompts: Sequence[str]) -> Tensor:
    """The text tower's states [B, L, D]: BERT's layers, each with attention to the image after that to the prompt."""
    at = "blip.text_encoder"
    ids = torch.tensor([tokens(prompt) for prompt in prompts])
    mask = torch.where(ids == 0, -torch.inf, 0.0)[:, None, None].to(image.dtype)
    x = state[f"{at}.embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{at}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = normed(state, f"{at}.embeddings.LayerNorm", x, 1e-12)
    for i in range(2):
        layer = f"{at}.encoder.layer.{i}"
        for kind, other, hidden in (("attention", None, mask), ("crossattention", image, None)):
            source = x if other is None else other
            q = full(state, f"{layer}.{kind}.self.query", x)
            k, v = (full(state, f"{layer}.{kind}.self.{part}", source) for part in ("key", "value"))
            y = full(state, f"{layer}.{kind}.output.dense", attended(q, k, v, hidden))
            x = normed(state, f"{layer}.{kind}.output.LayerNorm", x + y, 1e-12)
        y = full(state, f"{layer}.output.dense", gelu(full(state, f"{layer}.intermediate.dense", x)))
        x = normed(state, f"{layer}.output.LayerNorm", x + y, 1e-12)
    return x


def tokens(prompt: str) -> list[int]:
    """BERT's tokens of words whose letters are tokens, 35 with the two at the ends; 0 after them."""
    pieces = [letter if i == 0 else f"##{letter}" for word in prompt.split() for i, letter in enumerate(word)]
    found = [WORDS.index(piece) for piece in pieces][:33]
    return ([2, *found, 3] + [0] * 35)[:35]


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of two heads on [B, N, W]."""
    q, k, v = (x.unflatten(2, (2, -1)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    return (softmax(weights if mask is None else weights + mask, dim=-1) @ v).transpose(1, 2).flatten(2)


def full(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer."""
    return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    """A layer norm."""
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)
