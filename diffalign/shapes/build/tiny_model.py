"""Makes the embedded model's networks, tokenizer and scheduler, and samples pictures from it with plain DDIM.

Legend: `B` images, `h w` latent pixels (8), `C` latent channels (16), `L` tokens (20), `D` text width (128).
"""

from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffalign.shapes.scenes import COLOURS, NUMBERS, PLACES, RELATIONS, SHAPES, SIZES

CHANNELS, TOKENS, WIDTH = 16, 20, 128


@dataclass
class Tiny:
    """The five parts of a Stable Diffusion model; `vae.config.scaling_factor` holds the latents' scale."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def tokens(self, captions: list[str]) -> torch.Tensor:
        """Returns the captions' token ids, int64 `[B, L]`, padded with the end token and cut to L as in SD1.5."""
        return self.tokenizer(
            captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids


def new_vae() -> Any:
    """Returns an untrained AutoencoderKL for 64 px, `[B, 3, 64, 64]` to `[B, 16, 8, 8]`, 1.75M parameters."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=1,  # more groups would normalise away a flat picture's colour
        sample_size=64,
    )
    with torch.no_grad():  # little posterior noise at first (std 0.2), or learning doesn't start
        vae.quant_conv.bias[CHANNELS:] = -3.2
    return vae


def new_unet() -> Any:
    """Returns an untrained UNet2DConditionModel for `[B, 16, 8, 8]`, 3.3M parameters, 0.08 GFLOP an image.

    It attends at 4×4 and in the middle, 2×2: most of its weights are where a picture is a few places.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(40, 88, 112),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_tokenizer() -> Any:
    """Returns a CLIPTokenizer with one token a word of the shapes world, and all 256 bytes for any other text."""
    from transformers import CLIPTokenizer

    words = ["a", "an", "on", "at", "the", "background", *COLOURS, *SHAPES, *NUMBERS.values(), *(s for s in SIZES if s)]
    words += [shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES]
    words += sorted({word for phrase in (*RELATIONS, *PLACES) for word in phrase.split()})
    merges = []
    # merges chain from the left: c i, ci r, cir c, ...
    for word in _unbroken(words):
        parts = [*word[:-1], word[-1] + "</w>"]
        head = parts[0]
        for part in parts[1:]:
            if (head, part) not in merges:
                merges.append((head, part))
            head += part
    letters = byte_letters()
    tokens = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def _unbroken(words: list[str]) -> list[str]:
    """Orders words so that no earlier one's merges break a later one: green before red, whose 're' it has inside."""
    breaks = {start: [word for word in words if start[:2] in word[1:] and word != start] for start in words}
    return list(TopologicalSorter(breaks).static_order())


def byte_letters() -> list[str]:
    """Returns the 256 printable characters that stand for bytes in GPT-2's and CLIP's byte-level BPE, in its order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def new_text_encoder(tokenizer: Any) -> Any:
    """Returns an untrained CLIPTextModel: `[B, L]` ids to `[B, L, D]`, 0.5M parameters."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_scheduler() -> Any:
    """Returns a DDIM scheduler with Stable Diffusion 1.5's noise schedule."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def load(folder: Path, device: torch.device | str = "cpu") -> Tiny:
    """Loads the model from a folder of diffusers' layout, in float32, frozen and in evaluation mode."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    vae, unet, text = (m.to(device).eval().requires_grad_(False) for m in (vae, unet, text))
    return Tiny(vae, unet, text, tokenizer, scheduler)


@torch.no_grad()
def sample(model: Tiny, captions: list[str], seeds: list[int], steps: int = 20, guidance: float = 4.0) -> np.ndarray:
    """Samples one picture a caption with deterministic DDIM and classifier-free guidance: uint8 `[B, 64, 64, 3]`.

    The initial noise of picture i depends on `seeds[i]` only and is drawn on the CPU.
    """
    device = model.unet.device
    h = model.unet.config.sample_size
    noise = [torch.randn(CHANNELS, h, h, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(noise).to(device)
    embeds = model.text_encoder(model.tokens([*captions, ""]).to(device))[0]
    context = torch.cat([embeds[:-1], embeds[-1:].expand(len(captions), -1, -1)])
    model.scheduler.set_timesteps(steps)
    for t in model.scheduler.timesteps:
        with_text, without = model.unet(torch.cat([x, x]), t, context).sample.chunk(2)
        x = model.scheduler.step(without + guidance * (with_text - without), t, x).prev_sample
    pixels = model.vae.decode(x / model.vae.config.scaling_factor).sample
    return (pixels.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
