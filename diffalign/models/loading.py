"""From a model folder in diffusers' layout to networks, tokenizers and processes, or to what is wrong with it.

diffusers and transformers take seconds to import: the caller imports the class that it wants loaded.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from diffalign.core.errors import UserError
from diffalign.diffusion.process import Diffusion, scaled_linear

TEXT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
"""The folders of two CLIPs."""
CLIP_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
T5_FILES = (("tokenizer.json",),)


def check_folder(path: Path, parts: Sequence[str], folders: Mapping[str, Sequence[str]], name: str) -> None:
    """Raises UserError unless the folder holds what the parts need: `folders` of each, and the scheduler's."""
    needed = ["scheduler", *(folder for part in parts for folder in folders[part])]
    missing = [folder for folder in needed if not (path / folder).is_dir()]
    if missing:
        raise UserError(
            f"{path} is not a {name} model folder: expected {', '.join(needed)} (diffusers' layout), "
            f"missing {', '.join(missing)}. Point model.path and the policies' init at one; for weights from the hub, "
            "run `python pipeline.py fetch`."
        )


def load_part(cls: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """One network from safetensors, frozen and in evaluation mode; UserError if its folder is broken."""
    try:
        module, info = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} can't be loaded as {cls.__name__} from config.json and safetensors: {error}"
        ) from error
    # The libraries draw what the file lacks at random, with a warning at most.
    lacking = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if lacking:
        raise UserError(
            f"{folder}: expected the weights of a {cls.__name__} as its config.json says, "
            f"{len(lacking)} are missing or of another shape, {lacking[0]} for one"
        )
    module = module.requires_grad_(False).eval().to(device)
    return module if module.dtype == dtype else module.to(dtype)


def load_clips(path: Path, classes: Sequence[Any], device: torch.device, dtype: torch.dtype) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder) of each class, from text_encoder and tokenizer, text_encoder_2 and tokenizer_2."""
    from transformers import CLIPTokenizer

    clips = []
    for cls, suffix in zip(classes, ("", "_2"), strict=False):
        encoder = load_part(cls, path / f"text_encoder{suffix}", device, dtype)
        clips.append((load_tokenizer(CLIPTokenizer, path / f"tokenizer{suffix}", encoder.config.vocab_size), encoder))
    return clips


def load_unet(folder: Path, addition: str | None, device: torch.device, dtype: torch.dtype) -> Any:
    """A UNet2DConditionModel; UserError unless `addition` is what it wants beside the prompt (addition_embed_type)."""
    from diffusers import UNet2DConditionModel

    unet = load_part(UNet2DConditionModel, folder, device, dtype)
    if unet.config.addition_embed_type != addition:
        raise UserError(
            f"{folder}: expected addition_embed_type {addition}, got {unet.config.addition_embed_type}: it is another "
            "family's denoiser. Is model.family right?"
        )
    return unet


def load_tokenizer(cls: Any, folder: Path, vocabulary: int, files: Sequence[Sequence[str]] = CLIP_FILES) -> Any:
    """The tokenizer of a text encoder that knows `vocabulary` tokens; UserError if its folder is broken.

    `files`: the sets of files, any of which is enough for this kind of tokenizer.
    """
    try:
        tokenizer = cls.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} can't be loaded as a {cls.__name__}: {error}") from error
    # Without its files transformers makes one of three tokens, silently.
    whole = any(all((folder / name).is_file() for name in names) for names in files)
    if not whole or len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}: expected {', or '.join(' and '.join(names) for names in files)}, with at most the "
            f"{vocabulary} tokens that the model's text encoder knows, found {len(tokenizer)} tokens"
        )
    return tokenizer


def read_config(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a model folder; UserError if it isn't one."""
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable {what}: {error!r}") from error
    return config


def read_diffusion(path: Path) -> Diffusion:
    """The noise schedule of Stable Diffusion 1, 2 and XL that a scheduler's config file describes."""
    config = read_config(path, "scheduler config")
    known = config.get("beta_schedule"), config.get("rescale_betas_zero_snr", False)
    if known != ("scaled_linear", False):
        raise UserError(f"{path}: expected beta_schedule scaled_linear without zero-SNR rescaling, got {known}")
    try:
        alpha_bar = scaled_linear(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    except KeyError as error:
        raise UserError(f"{path} is not a readable scheduler config: {error!r}") from error
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"{path}: prediction_type: expected epsilon or v_prediction, got {prediction!r}")
    return Diffusion(alpha_bar, prediction)
