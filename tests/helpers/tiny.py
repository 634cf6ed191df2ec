"""A tiny random-weight Stable Diffusion in diffusers' layout, for tests; made once a session and copied.

C latent channels, L tokens, D text width. It draws nothing sensible, but every part is of the real class.
"""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from diffalign.shapes.build.tiny_model import byte_letters

TOKENS, WIDTH = 12, 16


def make_model(
    folder: Path,
    *,
    latent_channels: int = 4,
    seed: int = 0,
    prediction: str = "epsilon",
    tokens: int = TOKENS,
    size: int = 64,
) -> Path:
    """Writes a model folder for images of `size` pixels (f = 8) and returns it; equal arguments give equal bytes."""
    template = _template(latent_channels, seed, prediction, tokens, size)
    return Path(shutil.copytree(template, folder, dirs_exist_ok=True))


@cache
def _template(latent_channels: int, seed: int, prediction: str, tokens: int, size: int) -> Path:
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    tokenizer = make_tokenizer(tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionPipeline(
            vae=make_vae(sample_size=size, latent_channels=latent_channels, scaling_factor=0.18215),
            text_encoder=make_clip(CLIPTextModel, WIDTH, WIDTH, layers=2, tokens=tokens),
            tokenizer=tokenizer,
            unet=_unet(latent_channels, size),
            scheduler=make_scheduler(prediction),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    folder = saved(pipeline)
    # The two files of the older layout, which weights on the hub have.
    write_vocabulary(folder / "tokenizer")
    return folder


def saved(pipeline: Any) -> Path:
    """A pipeline's folder, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="diffalign-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    return folder


def make_scheduler(prediction: str = "epsilon") -> Any:
    """Stable Diffusion's noise schedule, with DDIM."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def make_vae(**changes: Any) -> Any:
    """An AutoencoderKL with f = 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        **changes,
    )


def _unet(latent_channels: int, size: int):  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def make_clip(cls: Any, width: int, projection: int, layers: int, tokens: int = TOKENS) -> Any:
    """A text encoder of one of CLIP's classes for `make_tokenizer`'s tokens."""
    from transformers import CLIPTextConfig

    tokenizer = make_tokenizer(tokens)
    return cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projection,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_tokenizer(tokens: int = TOKENS):  # type: ignore[no-untyped-def]
    """A CLIPTokenizer over the 256 bytes (no merges but "t h" and "th e</w>"), made without a download."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=vocabulary(), merges=[tuple(m.split()) for m in MERGES], model_max_length=tokens)


MERGES = ("t h", "th e</w>")


def vocabulary() -> dict[str, int]:
    """Token to id, in CLIP's order: byte symbols, those that end a word, merges, the two special tokens."""
    symbols = byte_letters()
    names = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in MERGES)]
    return {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}


def write_vocabulary(folder: Path) -> None:
    """vocab.json and merges.txt as CLIP's own."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{m}\n" for m in MERGES))
