"""Qwen2-VL as HPSv3 uses it: an image tower, a text tower that reads its output among the words' embeddings.

Legend: B images, H W pixels, P patches an image, N = P / 4 image tokens, L tokens, D width of the text tower.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.rewards.parts import tensors
from diffalign.rewards.parts.pixels import normalised, resized

SIZES: dict[str, dict[str, Any]] = {
    "vision": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 3584},
    "text": {
        "vocab_size": 151658,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
}
"""Of the 7 billion weights' version; the vocabulary is its tokenizer's and the reward token, the last one."""
HEAD = (1024, 16, 2)
"""Widths of the head's three layers, between which negative values become 0."""
LAYERS = (0, 3, 5)
"""The layers' numbers in the checkpoint."""
PIXELS = 200704
"""Pixels that an image is resized to, 448 x 448 for a square one: the fewest and the most."""
PATCH, MERGED = 14, 2
"""Pixels a side of a patch, and patches a side of an image token."""
UNUSED = "lm_head."
"""Tensors of the checkpoint that scoring doesn't use."""


def build() -> tuple[nn.Module, nn.Module, nn.Sequential]:
    """Returns (image tower, text tower, head) on the meta device: shapes without numbers."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel, Qwen2VLTextModel

    with torch.device("meta"):
        vision = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**SIZES["vision"]))
        text = Qwen2VLTextModel(Qwen2VLTextConfig(**SIZES["text"]))
        widths = (SIZES["text"]["hidden_size"], *HEAD)
        first, second, third = (nn.Linear(into, out) for into, out in zip(widths, HEAD, strict=False))
        head = nn.Sequential(first, nn.ReLU(), nn.Identity(), second, nn.ReLU(), third)
    return vision.eval(), text.eval(), head


PREFIXES = {"visual.": 0, "model.": 1, "rm_head.": 2}
"""Of the checkpoint's names, and the place of what they name in `build`'s tuple."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the checkpoint's tensors that scoring uses, by their names there."""
    parts = build()
    return {
        f"{prefix}{name}": tuple(value.shape)
        for prefix, place in PREFIXES.items()
        for name, value in parts[place].state_dict().items()
    }


def load(file: Path, device: torch.device | str, dtype: torch.dtype) -> tuple[Any, Any, nn.Sequential]:
    """Loads (image tower, text tower, head) from the published file, frozen; the head stays in float32.

    Raises UserError where the file has other tensors than HPSv3's.
    """
    state = tensors.read(file, shapes(), unused=UNUSED)
    parts = build()
    for prefix, place in PREFIXES.items():
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        parts[place].load_state_dict(inside, assign=True)
        parts[place].requires_grad_(False)
    vision, text, head = parts
    # The only tensors that aren't in the file: the rotations' frequencies, which their classes compute.
    vision.rotary_pos_emb = type(vision.rotary_pos_emb)(vision.config)
    text.rotary_emb = type(text.rotary_emb)(text.config)
    return vision.to(device, dtype), text.to(device, dtype), head.to(device, torch.float32)


def patches(images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Returns patches [B * P, 3 * 2 * 14 * 14] of images [B, 3, H, W] in [0, 1], and how many go down and across.

    Resized to multiples of 28 with about `PIXELS` pixels, bicubic; each image stands twice, as two frames. The four
    patches of an image token follow one another. UserError for an image 200 times as long as wide.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = images.shape[-2:]
    try:
        size = smart_resize(height, width, PATCH * MERGED, PIXELS, PIXELS)
    except ValueError as error:
        raise UserError(f"hpsv3: an image of {width} x {height} pixels can't be read: {error}") from error
    down, across = size[0] // PATCH, size[1] // PATCH
    small = normalised(resized(images, *size))
    cut = small.reshape(len(small), 3, down // MERGED, MERGED, PATCH, across // MERGED, MERGED, PATCH)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(*(-1,) * 6, 2, -1, -1)
    return cut.reshape(len(small) * down * across, -1), (down, across)


def embedded(vision: Any, images: Tensor) -> Tensor:
    """Returns image tokens [B, N, D] of images [B, 3, H, W] in [0, 1]."""
    found, (down, across) = patches(images)
    grid = torch.tensor([[1, down, across]] * len(images), device=found.device)
    tokens = vision(found.to(vision.dtype), grid_thw=grid).pooler_output
    return torch.as_tensor(tokens).reshape(len(images), -1, tokens.shape[-1])


def states(text: Any, ids: Sequence[Sequence[int]], images: Tensor, place: int) -> Tensor:
    """Returns the text tower's last states [B, L, D] for token ids, of which `place` stands for image tokens [B, N, D].

    Positions are the tokens' numbers, the image's too: HPSv3's own code, which learnt so, leaves out Qwen2-VL's rows
    and columns. A token sees those before it, so that shorter texts need no mask for what is padded behind them.
    """
    longest = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids], device=text.device)
    embeddings = text.embed_tokens(padded)
    shown = (padded == place)[..., None].expand_as(embeddings)
    embeddings = embeddings.masked_scatter(shown, images.to(embeddings.dtype))
    numbers = torch.arange(longest, device=text.device).expand(3, len(padded), -1)
    found: Tensor = text(inputs_embeds=embeddings, position_ids=numbers, use_cache=False).last_hidden_state
    return found
