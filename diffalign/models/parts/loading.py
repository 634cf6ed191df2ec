"""Loading networks and tokenizers from a model folder in diffusers' layout, or saying what is wrong with it.

diffusers and transformers take seconds to import: the caller imports the class that it wants loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.models.parts import weights
from diffalign.models.parts.configs.schema import read_json

TEXT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
"""The folders of two CLIPs."""
CLIP_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
T5_FILES = (("tokenizer.json",),)
BUILDING = (
    *(OSError, ValueError, KeyError, RuntimeError, SafetensorError, TypeError, AttributeError, IndexError),
    StrictDataclassError,
    *(ZeroDivisionError, AssertionError, NotImplementedError, OverflowError, MemoryError),
)
"""Errors that diffusers and transformers raise for config values that their classes can't be built from."""


def check_folder(path: Path, parts: Sequence[str], folders: Mapping[str, Sequence[str]], name: str) -> None:
    """Raises UserError unless the folder holds what the parts need: `folders` of each, and the scheduler's."""
    needed = ["scheduler", *(folder for part in parts for folder in folders[part])]
    missing = [folder for folder in needed if not (path / folder).is_dir()]
    if missing:
        raise UserError(
            f"{path} is not a {name} model folder: expected {', '.join(needed)} (diffusers' layout), "
            f"missing {', '.join(missing)}. Point model.path and the policies' init at one; for weights from the hub, "
            f"run `{COMMAND} fetch`."
        )


def existing(folder: Path) -> Path | None:
    """Returns a folder, or None where there is none."""
    return folder if folder.is_dir() else None


def load_part(cls: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads one network from safetensors, frozen and in evaluation mode; UserError if its folder is broken."""
    weights.verify(folder.parent, f"{folder.name}/")
    try:
        module, info = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except BUILDING as error:
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
    weights.check_finite(module, folder)
    module = module.requires_grad_(False).eval().to(device)
    return module if module.dtype == dtype else module.to(dtype)


def load_clips(path: Path, classes: Sequence[Any], device: torch.device, dtype: torch.dtype) -> list[tuple[Any, Any]]:
    """Loads (tokenizer, text encoder) for each class: from tokenizer and text_encoder, then tokenizer_2 and so on."""
    from transformers import CLIPTokenizer

    clips = []
    for cls, suffix in zip(classes, ("", "_2"), strict=False):
        encoder = load_part(cls, path / f"text_encoder{suffix}", device, dtype)
        clips.append((load_tokenizer(CLIPTokenizer, path / f"tokenizer{suffix}", encoder.config.vocab_size), encoder))
    return clips


def load_vae(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads a model folder's AutoencoderKL; on the meta device its shapes alone."""
    from diffusers import AutoencoderKL

    return load_network(AutoencoderKL, path / "vae", device, dtype)


def load_network(cls: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads one of diffusers' networks; on the meta device its shapes alone, from its config file."""
    if device.type != "meta":
        return load_part(cls, folder, device, dtype)
    try:
        with torch.device("meta"):
            module = cls.from_config(read_json(folder / "config.json")).requires_grad_(False).eval()
    except BUILDING as error:
        raise UserError(f"{folder / 'config.json'} can't be built as {cls.__name__}: {error!r}") from error
    return module if module.dtype == dtype else module.to(dtype)


def load_tokenizer(cls: Any, folder: Path, vocabulary: int, files: Sequence[Sequence[str]] = CLIP_FILES) -> Any:
    """Loads the tokenizer of a text encoder that knows `vocabulary` tokens; UserError if its folder is broken.

    `files`: the sets of files, any of which is enough for this kind of tokenizer.
    """
    weights.verify(folder.parent, f"{folder.name}/")
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
