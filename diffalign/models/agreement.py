"""Comparing two model folders that must agree: the base model's (`model.path`) and the one a policy starts from.

Latents and prompts are encoded with the base model's parts and noised by its schedule; the denoiser comes from the
policy's `init`. Where that is a whole model, its own VAE, widths, schedule and prediction must be the base model's.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models import init_files
from diffalign.models.parts.configs.model import read_vae

ENCODER = ("encoder.", "quant_conv.")
"""Prefixes of the VAE's weights that make latents; the decoder of `init` isn't used."""
RTOL, ATOL = 2e-2, 1e-3
"""Tolerances, relative and absolute, for weights that were rounded to half precision."""


def check_init(key: str, family: str, model: str, init: str) -> None:
    """Raises UserError, naming the param `key`, unless the denoiser of `init` fits the base model `model`.

    Reads config files, and the VAEs' weights where both folders have one.
    """
    families.find(family).check(Path(model), init_files.denoiser(key, family, model, init))
    base, own = Path(model), Path(init)
    if own.resolve() == base.resolve() or not all((own / part).is_dir() for part in ("vae", "scheduler")):
        return
    found = [*process_differences(family, base, own), *vae_differences(base, own)]
    if found:
        listed = "".join(f"\n  {line}" for line in found)
        raise UserError(
            f"{key}: expected a model that agrees with model.path, {model}; {init} differs:{listed}\n"
            "Latents, prompts and noise are model.path's. Point both at one model, or, if only the denoiser of "
            f"{init} is meant, at a copy of the folder with nothing but {families.find(family).denoiser_folder}/ in it."
        )


def check_inits(family: str, model: str, inits: Mapping[str, str]) -> None:
    """Runs `check_init` on each init, by its param, that has a denoiser: a policy may start from one yet to train."""
    for key, init in inits.items():
        if families.denoiser_folder(family, init).is_dir() or init_files.lora(family, init):
            check_init(key, family, model, init)


def process_differences(family: str, base: Path, own: Path) -> list[str]:
    """Returns what differs between the processes of two model folders: schedule, prediction, shift."""
    one, other = (families.load(family, path, ()).process for path in (base, own))
    return [
        f"scheduler: {field.name}: {brief(getattr(one, field.name))} and {brief(getattr(other, field.name))}"
        for field in fields(one)  # type: ignore[arg-type]
        if not equal(getattr(one, field.name), getattr(other, field.name))
    ]


def vae_differences(base: Path, own: Path) -> list[str]:
    """Returns what differs between two VAEs' latents: scale, shift, and the encoder's weights beyond rounding."""
    one, other = read_vae(base), read_vae(own)
    names = ("latent_channels", "scaling_factor", "shift_factor", "block_out_channels")
    found = [
        f"vae/config.json: {name}: {getattr(one, name)} and {getattr(other, name)}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    ]
    if not found and (tensor := other_weight(base / "vae", own / "vae")):
        found.append(f"vae: the weights of {tensor}")
    return found


def other_weight(base: Path, own: Path) -> str | None:
    """Returns the name of the first weight of the encoder that differs between two VAE folders; None if none does."""
    (one, other) = (sorted(folder.glob("*.safetensors"))[:1] for folder in (base, own))
    if not one or not other:
        return None
    try:
        with safe_open(one[0], "pt") as first, safe_open(other[0], "pt") as second:
            theirs = set(second.keys())
            for name in filter(lambda key: key.startswith(ENCODER), first.keys()):
                if name not in theirs:
                    return str(name)
                a, b = first.get_tensor(name).float(), second.get_tensor(name).float()
                if a.shape != b.shape or not torch.allclose(a, b, RTOL, ATOL):
                    return str(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{one[0]} or {other[0]} can't be read: {error}. Bring the file again.") from error
    return None


def equal(a: Any, b: Any) -> bool:
    """Tells whether two values of a process are equal."""
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)


def brief(value: Any) -> str:
    """Returns a value of a process as text: a schedule by its length and last value."""
    return f"{len(value)} steps to {float(value[-1]):.4g}" if isinstance(value, torch.Tensor) else repr(value)
