"""A policy's folder: what training publishes, and how it is loaded again.

models/policies/NAME/ holds policy.json and, by its adapter: none, nothing more (the policy is its `init`); full, the
denoiser's folder, such as `unet/`; lora, `pytorch_lora_weights.safetensors`. Stock diffusers loads both.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from diffalign.core.errors import UserError
from diffalign.models import family as families


def read_policy(folder: Path) -> dict[str, Any]:
    """A policy's metadata; UserError if the folder isn't a policy's."""
    try:
        meta = json.loads((folder / "policy.json").read_text())
        if not isinstance(meta, dict) or not {"adapter", "init"} <= meta.keys():
            raise ValueError("expected an object with adapter and init")
        return meta
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a trained policy: policy.json: {error}. Run `dvc repro`.") from error


def add_lora(
    denoiser: nn.Module, targets: Sequence[str], rank: int, alpha: int, seed: int, key: str = "lora_targets"
) -> None:
    """Adds LoRA to the modules of these names (Hu et al. 2021), in place; B is zero, so nothing changes yet.

    Only the adapters require gradients after; A is drawn from `seed`. UserError where no module has one of the names;
    `key` is what the params call them.
    """
    from peft import LoraConfig

    check_targets(denoiser, targets, key)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            cast(Any, denoiser).add_adapter(config)
        except ValueError as error:
            raise UserError(
                f"{key}: expected names of modules of the {type(denoiser).__name__} that can carry LoRA, got "
                f"{', '.join(targets)}: {error}"
            ) from error


def check_targets(denoiser: nn.Module, targets: Sequence[str], key: str) -> None:
    """Raises UserError unless each name is a module's, whole or its end: PEFT leaves out what it doesn't find."""
    modules = dict(denoiser.named_modules())
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in modules)]
    if unknown:
        carriers = [name.split(".") for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
        ends = {".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]) for parts in carriers}
        raise UserError(
            f"{key}: expected names of modules of the {type(denoiser).__name__}, found none named "
            f"{', '.join(unknown)} among {', '.join(targets)}; it has {', '.join(sorted(ends))}"
        )


def load_policy(
    family: str,
    model_path: Path | str,
    folder: Path,
    device: torch.device | str = "cpu",
    parts: tuple[str, ...] = ("vae", "text"),
) -> families.Family:
    """The model of `model_path` with a policy's denoiser, ready to sample from or to score with.

    `parts` are loaded beside the denoiser. Raises UserError if a folder isn't what it should be.
    """
    meta = read_policy(folder)
    model = families.load(family, model_path, parts, device)
    model.load_denoiser(folder if meta["adapter"] == "full" else Path(meta["init"]))
    if meta["adapter"] == "lora":
        load_lora(model, folder)
    return model


def load_lora(model: families.Family, folder: Path) -> None:
    """Puts a policy's LoRA on the denoiser of its init, in place."""
    file = folder / "pytorch_lora_weights.safetensors"
    if not file.is_file():
        raise UserError(f"{file} is missing: the policy's folder is broken. Delete it and run `dvc repro`.")
    denoiser = cast(Any, model.denoiser)
    denoiser.load_lora_adapter(folder, weight_name=file.name, prefix=model.denoiser_folder)


def save_denoiser(model: families.Family, adapter: str, folder: Path) -> None:
    """Writes a model's trained denoiser, unwrapped, in the layout that stock diffusers loads, safetensors only."""
    if adapter == "full":
        cast(Any, model.denoiser).save_pretrained(folder / model.denoiser_folder, safe_serialization=True)
    else:
        save_lora(model, folder)


def save_lora(model: families.Family, folder: Path) -> None:
    """Writes the adapters for the stock pipeline's `load_lora_weights(folder)`, their alpha in the metadata."""
    import diffusers
    from peft import get_peft_model_state_dict

    config = cast(Any, model.denoiser).peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    part = model.denoiser_folder
    layers = {
        # By PEFT's names: by diffusers' older ones a transformer loses to_q, to_k, to_v, to_out when it's read back.
        f"{part}_lora_layers": get_peft_model_state_dict(model.denoiser),
        f"{part}_lora_adapter_metadata": plain,
    }
    getattr(diffusers, model.pipeline).save_lora_weights(folder, **layers, safe_serialization=True)
