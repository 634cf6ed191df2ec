"""Converts a reward's published checkpoint, once, so that no pickle is read when it scores.

The checkpoint's checksum is compared with the one that its publisher states, and it is read with `weights_only`. What
is written is safetensors that say what they were made from; the same checkpoint gives the same bytes.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_file
from diffalign.models.parts import weights
from diffalign.rewards.parts import blip, clip, folders, head, open_clip, tensors

State = dict[str, Tensor]
HERE = "the checkpoint"


def convert(reward: str, checkpoint: Path, folder: Path, sha256: str) -> None:
    """Writes a reward's weights into its folder, and checksums of all weights and configs that are there, last.

    Raises UserError for another checksum, a file that isn't weights alone, or weights of another network.
    """
    if reward not in CONVERTERS:
        raise UserError(f"convert_reward: expected one of {', '.join(CONVERTERS)}, got {reward!r}")
    found = sha256_file(checkpoint) if checkpoint.is_file() else "no file"
    if found != sha256.lower():
        raise UserError(
            f"{checkpoint}: expected the SHA-256 {sha256}, found {found}. Bring the file again, or state the checksum "
            "that its publisher does."
        )
    folder.mkdir(parents=True, exist_ok=True)
    name, state = CONVERTERS[reward](read(checkpoint), folder)
    part = folder / f".{name}.part"
    # transformers wants to know the framework.
    save_file(state, part, {"format": "pt", folders.REWARD: reward, "source": checkpoint.name, folders.SOURCE: found})
    weights.sort_metadata(part)
    os.replace(part, folder / name)
    weights.note(folder)


def read(checkpoint: Path) -> Mapping[str, Any]:
    """Reads a checkpoint that torch saved: tensors and plain values only; UserError for anything else in it."""
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        # torch's own message recommends to read it without the protection.
        raise UserError(
            f"{checkpoint}: expected tensors and plain values, as torch.load reads with weights_only, found something "
            f"else or a damaged file ({type(error).__name__}). Don't read it otherwise: a pickle runs code."
        ) from error
    if not isinstance(found, Mapping):
        raise UserError(f"{checkpoint}: expected a mapping of names to tensors, found {type(found).__name__}")
    return found


def hps(checkpoint: Mapping[str, Any], folder: Path) -> tuple[str, State]:
    """Returns the file's name and CLIPModel's tensors for a checkpoint of HPSv2, and writes its config.json."""
    if "state_dict" not in checkpoint:
        raise UserError(f"expected HPSv2's key state_dict, found {', '.join(sorted(map(str, checkpoint))[:3])}")
    state = open_clip.converted(checkpoint["state_dict"])
    tensors.check(HERE, state, open_clip.shapes("ViT-H/14"))
    open_clip.config("ViT-H/14").save_pretrained(folder)
    return folders.WEIGHTS, state


def aesthetic(checkpoint: Mapping[str, Any], folder: Path) -> tuple[str, State]:
    """Returns the file's name and the tensors of the aesthetic predictor's head, as they are."""
    width = int(clip.BACKBONES["ViT-L/14"]["vision_config"]["projection_dim"])
    tensors.check(HERE, checkpoint, head.shapes(width))
    return folders.HEAD, dict(checkpoint)


def imagereward(checkpoint: Mapping[str, Any], folder: Path) -> tuple[str, State]:
    """Returns the file's name and the tensors of BLIP's towers and the head for ImageReward's checkpoint."""
    state = blip.converted(checkpoint)
    tensors.check(HERE, state, blip.shapes())
    return folders.WEIGHTS, state


CONVERTERS: dict[str, Callable[[Mapping[str, Any], Path], tuple[str, State]]] = {
    "aesthetic_v2": aesthetic,
    "hpsv2": hps,
    "hpsv2_1": hps,
    "imagereward": imagereward,
}
