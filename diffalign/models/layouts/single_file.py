"""A whole model as one checkpoint in the original layout, which ComfyUI and A1111 load."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models.layouts import original
from diffalign.models.layouts.original import Original, Source
from diffalign.models.layouts.place import Places, checkpoint
from diffalign.models.layouts.vae import VAENames
from diffalign.models.parts import weights
from diffalign.models.parts.configs.model import CONFIG, read_vae

DENOISER, VAE = "model.diffusion_model.", "first_stage_model."
V_PREDICTION = "v_pred"
"""An empty tensor by which UIs know that a Stable Diffusion XL predicts v."""
STEMS = ("diffusion_pytorch_model", "model")


def tensors(
    family: str, source: Source, denoiser: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Returns a checkpoint's tensors: the denoiser's that are given, the VAE's and the text encoders' of the model.

    `dtype` None: each as it is stored. Raises UserError where a part isn't one that the layout has names for.
    """
    layout, model = original.find(family), source.model
    found = named(cast(denoiser, dtype), layout.denoiser(source.denoiser / CONFIG), DENOISER)
    blocks = len(read_vae(model).block_out_channels)
    found |= named(cast(part(model, "vae"), dtype), VAENames(blocks), VAE)
    for encoder in layout.encoders(source):
        found |= named(cast(part(model, encoder.folder), dtype), encoder.places, encoder.prefix)
    return found | marks(layout, source)


def marks(layout: Original, source: Source) -> dict[str, Tensor]:
    """Returns the empty tensors by which UIs know a model's kind."""
    v_prediction = layout.prediction(source) == "v" and layout.architecture(source) == "stable-diffusion-xl-v1-base"
    return {V_PREDICTION: torch.empty(0)} if v_prediction else {}


def named(found: Mapping[str, Tensor], places: Places, prefix: str) -> dict[str, Tensor]:
    """Returns tensors by their names in a checkpoint."""
    return {prefix + name: tensor for name, tensor in checkpoint(found, places).items()}


def part(root: Path, folder: str) -> dict[str, Tensor]:
    """Reads a part's tensors from its safetensors files, verified; UserError if there are none or they are broken."""
    weights.verify(root, f"{folder}/")
    found: dict[str, Tensor] = {}
    for file in files_of(root / folder):
        try:
            with safe_open(file, "pt") as opened:
                found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} can't be read: {error}. Bring it again.") from error
    return found


def files_of(folder: Path) -> list[Path]:
    """Returns the safetensors files of a part: one, or the pieces of one; not those of other precisions."""
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
        if pieces := sorted(folder.glob(f"{stem}-?????-of-?????.safetensors")):
            return pieces
    raise UserError(f"{folder}: expected {' or '.join(f'{stem}.safetensors' for stem in STEMS)}, found neither")


def cast(found: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Returns tensors in another precision, integers as they are; UserError where a number doesn't fit into it."""
    if dtype is None:
        return dict(found)
    made = {name: value.to(dtype) if value.is_floating_point() else value for name, value in found.items()}
    check_fits(found, made)
    return made


def check_fits(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raises UserError where a finite number became an infinite one."""
    wrong: Iterable[str] = (name for name in after if not weights.finite(after[name]) and weights.finite(before[name]))
    if name := next(iter(wrong), None):
        raise UserError(
            f"export: {name} has numbers that are too large for {str(after[name].dtype).removeprefix('torch.')}: use "
            "--dtype bf16 or fp32"
        )
