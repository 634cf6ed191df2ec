"""Random-weight models of real architectures, and preference data for them, for benchmarks/train.py.

`tiny` has Stable Diffusion 1.5's parts in its FLOP proportions (a pair costs the VAE's encoder 2.8 times one forward of
the UNet, the text encoder 1.7%), small enough for a CPU; `sd15` and `sdxl` have the published configurations.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffalign.config.load import load, parse
from diffalign.config.params import Params
from diffalign.rewards.parts.clip import BACKBONES
from stages import ingest, precompute, reference
from tests.helpers import pickapic
from tests.helpers.tiny import make_tokenizer, write_vocabulary

ROOT = Path(__file__).resolve().parent.parent
FLAT = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, **FLAT}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}
CLIP_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class Architecture:
    """The configurations of a model's parts, as diffusers and transformers take them."""

    family: str
    pixels: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], ...]


ARCHITECTURES = {
    "tiny": Architecture(
        family="sd15",
        pixels=64,
        unet={
            "sample_size": 8,
            "block_out_channels": (64, 128),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        vae={
            "block_out_channels": (24, 48, 48, 64),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 8,
            "sample_size": 64,
            **FLAT,
        },
        texts=(
            {
                "vocab_size": 516,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 24,
                "projection_dim": 64,
            },
        ),
    ),
    "sd15": Architecture(
        family="sd15",
        pixels=512,
        unet={
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        vae={**VAE, "sample_size": 512},
        texts=(CLIP_L,),
    ),
    "sdxl": Architecture(
        family="sdxl",
        pixels=1024,
        unet={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae={**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        texts=(CLIP_L, CLIP_G),
    ),
}


def make_model(architecture: Architecture, folder: Path, seed: int = 0) -> None:
    """Writes a model of random weights in diffusers' layout; its tokenizer's vocabulary is a small one."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = architecture.texts[0]["max_position_embeddings"]
    parts: dict[str, Any] = {"scheduler": DDIMScheduler(**SCHEDULER)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts["unet"] = UNet2DConditionModel(**architecture.unet)
        parts["vae"] = AutoencoderKL(**architecture.vae)
        for number, config in enumerate(architecture.texts):
            suffix = f"_{number + 1}" if number else ""
            tokenizer = make_tokenizer(tokens)
            special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            kind = CLIPTextModelWithProjection if number else CLIPTextModel
            parts[f"text_encoder{suffix}"] = kind(CLIPTextConfig(**config, **special))
            parts[f"tokenizer{suffix}"] = tokenizer
    if len(architecture.texts) == 2:
        pipeline: Any = StableDiffusionXLPipeline(**parts)
    else:
        none = dict.fromkeys(("safety_checker", "feature_extractor"))
        pipeline = StableDiffusionPipeline(**parts, **none, requires_safety_checker=False)
    pipeline.save_pretrained(folder)


def make_clip(folder: Path) -> Path:
    """Writes a CLIP ViT-H/14, PickScore's backbone, of random weights, with a small vocabulary; returns the folder."""
    from transformers import CLIPConfig, CLIPModel

    sizes = BACKBONES["ViT-H/14"]
    tokenizer = make_tokenizer(int(sizes["text_config"]["max_position_embeddings"]))
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = sizes["text_config"]["projection_dim"]
        parts = {**sizes, "text_config": {**sizes["text_config"], **ends}}
        CLIPModel(CLIPConfig(projection_dim=width, **parts)).save_pretrained(folder)
    write_vocabulary(folder)
    return folder


def photograph(seed: int, side: int) -> bytes:
    """Returns a JPEG of soft colours under film grain, which makes it as large as a photograph."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((side, side))
    grain = rng.normal(0, 9, (side, side, 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(colours) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photo_side(pixels: int) -> int:
    """Pixels a side of the images that are resized to `pixels`, as Pick-a-Pic's 768 are to 512."""
    return 3 * pixels // 2


def make_data(path: Path, pixels: int, pairs: int) -> None:
    """A Parquet file in Pick-a-Pic's columns: so many untied rows of two JPEGs each, to train at `pixels`."""
    side = photo_side(pixels)
    rows = [
        pickapic.row(n, "ab"[n % 2], jpg_0=photograph(2 * n, side), jpg_1=photograph(2 * n + 1, side))
        for n in range(pairs)
    ]
    pickapic.write(path, rows, row_group_size=100)


def make_params(architecture: Architecture, policy: dict[str, Any]) -> Params:
    """The default params for this model and data, with one policy: the default's `dpo` changed by `policy`."""
    raw = load(ROOT / "params.yaml").model_dump()
    raw["data"]["path"], raw["model"] = "raw", {"family": architecture.family, "path": "model"}
    raw["precompute"] |= {"resolution": architecture.pixels, "batch_size": 16 if architecture.pixels < 512 else 4}
    base = {**raw["policies"]["base"], "init": "model"}
    kept = {key: raw["training"][key] for key in ("timesteps", "timestep_density", "prompt_drop", "flip")}
    raw["reference"] |= {**kept, "draws": 2, "init": "model", "batch_size": policy["batch_size"]}
    raw["policies"] = {"base": base, "dpo": {**raw["policies"]["dpo"], "init": "model", **policy}}
    return parse(raw, "the benchmark's params")


def make_world(architecture: Architecture, pairs: int, policy: dict[str, Any]) -> Params:
    """Makes model/, raw/, and with the real stages data/comparisons, shards and reference, in the working folder."""
    values = make_params(architecture, policy)
    make_model(architecture, Path("model"))
    make_data(Path("raw/train-00000-of-00001.parquet"), architecture.pixels, pairs)
    ingest.run(values)
    precompute.run(values)
    reference.run(values)
    return values
