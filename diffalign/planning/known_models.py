"""The sizes of the models that `fetch` brings, so that a training is planned before anything was downloaded.

Only what shapes and work follow from: the published configs' widths and depths, without weights or vocabularies.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffalign.core.files import canonical_json, sha256_bytes
from diffalign.models import family as families
from diffalign.models import init_files
from diffalign.models.parts.configs.schema import read_json

FOLDER = Path("models/base")
"""Where `fetch` puts them, by family."""

VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
SCHEDULER |= {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "set_alpha_to_one": False}
SCHEDULER |= {"clip_sample": False}
CLIP_L: dict[str, Any] = {
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
}
CLIP_L |= {"num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu"}
CLIP_G = CLIP_L | {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280, "hidden_act": "gelu"}
CLIP_G |= {"num_hidden_layers": 32, "num_attention_heads": 20}
CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "layers_per_block": 2}

KNOWN: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "scheduler": SCHEDULER,
        "vae": VAE | {"latent_channels": 4, "sample_size": 512},
        "text_encoder": CLIP_L,
        "unet": UNET
        | {
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": [CROSS[0]] * 3 + [PLAIN[0]],
            "up_block_types": [PLAIN[1]] + [CROSS[1]] * 3,
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
    },
    "sdxl": {
        "scheduler": SCHEDULER,
        "vae": VAE | {"latent_channels": 4, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "unet": UNET
        | {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": [PLAIN[0]] + [CROSS[0]] * 2,
            "up_block_types": [CROSS[1]] * 2 + [PLAIN[1]],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    },
    "sd3": {
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        "vae": VAE
        | {
            "latent_channels": 16,
            "sample_size": 1024,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "transformer": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
    },
}
"""The config of each part, by family: Stable Diffusion 1.5, XL base 1.0, and 3 Medium without T5."""

DOWNLOADS = {"sd15": 4.3e9, "sdxl": 13.9e9, "sd3": 6e9}
"""Bytes of what `fetch` brings of each."""


@contextmanager
def folder(family: str, path: Path) -> Iterator[Path]:
    """Gives a model's folder for as long as a block runs: `path`, or one of config files alone where it isn't there."""
    if path.is_dir() or not is_known_place(family, path):
        yield path
        return
    with TemporaryDirectory() as place:
        for name, config in KNOWN[family].items():
            file = Path(place) / file_of(name)
            file.parent.mkdir()
            file.write_text(json.dumps(config))
        yield Path(place)


def is_known_place(family: str, path: Path) -> bool:
    """Tells whether a folder is where `fetch` puts a model whose sizes are known."""
    return family in KNOWN and path == FOLDER / family


def denoiser_root(family: str, base: str, init: str) -> Path:
    """Returns the folder whose denoiser has the shape of an init's: the base model's for a LoRA or what isn't there."""
    own = init_files.lora(family, init) is None and families.denoiser_folder(family, init).is_dir()
    return Path(init if own else base)


def identity(family: str, base: Path, root: Path) -> str:
    """Returns a name for the sizes of a model with the denoiser of the folder `root`: "known", or a checksum."""
    names = {name: config for name, config in KNOWN.get(family, {}).items() if name != "scheduler"}  # of no size
    denoiser = families.find(family).denoiser_folder
    files = {name: (root if name == denoiser else base) / file_of(name) for name in {*names, denoiser, "vae"}}
    if not any(file.exists() for file in files.values()) and is_known_place(family, base):
        return "known"
    found = {name: read_json(file) for name, file in files.items()}
    agree = all(found[name].get(key) == value for name, config in names.items() for key, value in config.items())
    return "known" if agree and names else sha256_bytes(canonical_json(found).encode())


def file_of(part: str) -> str:
    """Returns a part's config file, relative to a model's folder."""
    return f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json"
