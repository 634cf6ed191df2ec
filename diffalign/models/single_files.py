"""Writes a policy as one file: a checkpoint for UIs, or its LoRA in diffusers' or kohya's names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models import export, policies
from diffalign.models import family as families
from diffalign.models.layouts import kohya, modelspec, original, single_file, tensor_file
from diffalign.models.layouts.modelspec import About
from diffalign.models.layouts.original import Source
from diffalign.models.lora_files import ADAPTER
from diffalign.models.parts import weights
from diffalign.models.parts.configs.model import CONFIG

UNSUPPORTED = ("rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "lora_bias")
"""PEFT's settings with which alpha / rank * up @ down isn't a LoRA's whole change."""


@dataclass(frozen=True)
class Policy:
    """A policy that is exported: its family, the base model's folder and its own."""

    family: str
    model: Path
    folder: Path

    @property
    def meta(self) -> dict[str, Any]:
        """Returns its policy.json."""
        return policies.read_policy(self.folder)

    @property
    def source(self) -> Source:
        """Returns the model and the folder whose denoiser has the policy's shape."""
        meta = self.meta
        root = self.folder if meta["adapter"] == "full" else Path(meta["init"])
        return Source(self.model, families.denoiser_weights("init", self.family, str(root)))


@dataclass(frozen=True)
class Lora:
    """A policy's LoRA as it was saved; `scale` is alpha / rank, as PEFT multiplies the product."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """Returns alpha / rank."""
        return self.alpha / self.rank


def write_single_file(policy: Policy, file: Path, dtype: torch.dtype | None, about: About) -> None:
    """Writes the whole model as one checkpoint in the original layout, LoRA merged; `dtype` None keeps each tensor's.

    Raises UserError where a part has no place in that layout, is damaged, or has changed since the training.
    """
    layout, source = original.find(policy.family), policy.source
    tensors = single_file.tensors(policy.family, source, denoiser(policy), dtype)
    tensor_file.write(file, tensors, modelspec.checkpoint(layout, source, about))


def write_kohya(policy: Policy, file: Path, dtype: torch.dtype | None, about: About) -> None:
    """Writes the LoRA in kohya's names, with alpha and ModelSpec's metadata; UserError where the policy has none."""
    layout, source, lora = original.find(policy.family), policy.source, read_lora(policy)
    places = layout.denoiser(source.denoiser / CONFIG) if layout.renamed else None
    folder = families.find(policy.family).denoiser_folder
    tensors = kohya.convert(single_file.cast(lora.tensors, dtype), folder, lora.scale, places)
    tensor_file.write(file, tensors, modelspec.lora(layout, source, about, lora.rank, lora.alpha))


def write_lora(policy: Policy, file: Path, dtype: torch.dtype | None) -> None:
    """Writes the LoRA for diffusers' `load_lora_weights`; UserError where the policy has none."""
    lora = read_lora(policy)
    tensor_file.write(file, single_file.cast(lora.tensors, dtype), lora.metadata)


def denoiser(policy: Policy) -> dict[str, Tensor]:
    """Returns a policy's denoiser's tensors by diffusers' names, with LoRA merged."""
    meta = policy.meta
    if meta["adapter"] == "lora":
        return dict(export.merged(policy.family, policy.model, policy.folder).state_dict())
    source = policy.source.denoiser
    if meta["adapter"] == "none":
        policies.check_init(policy.folder, meta, source)
    return single_file.part(source.parent, source.name)


def read_lora(policy: Policy) -> Lora:
    """Reads a policy's LoRA, verified; UserError where it has none, or one that alpha / rank doesn't describe."""
    if (kind := policy.meta["adapter"]) != "lora":
        raise UserError(no_lora(policy.folder.name, kind))
    weights.verify(policy.folder, policies.LORA)
    file = policy.folder / policies.LORA
    tensors = policies.read_tensors(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
    part = families.find(policy.family).denoiser_folder
    config = {key.removeprefix(f"{part}."): value for key, value in json.loads(metadata.get(ADAPTER, "{}")).items()}
    odd = [key for key in UNSUPPORTED if config.get(key)]
    if odd or "r" not in config:
        raise UserError(
            f"{file}: expected a LoRA of one rank and one alpha in its metadata, found {', '.join(odd) or 'none'}. "
            "Export it whole: --to single-file"
        )
    return Lora(tensors, metadata, config["r"], config["lora_alpha"])


def no_lora(name: str, adapter: str) -> str:
    """Returns why a policy can't be exported as LoRA, and what to do."""
    why = "it was trained with all its weights" if adapter == "full" else "it isn't trained"
    return (
        f"export: expected a policy with LoRA, got {name}: {why}. Export it whole, --to single-file for ComfyUI and "
        "A1111 or --to pipeline for diffusers; or train one with LoRA: lora: {rank: 8, alpha: 8, targets: null} under "
        "training or the policy in params.yaml, then dvc repro"
    )
