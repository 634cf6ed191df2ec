"""Saving and loading a policy's folder, which training publishes.

models/policies/NAME/ holds policy.json and, by its adapter: none, nothing more (the policy is its `init`); full, the
denoiser's folder, such as `unet/`; lora, `pytorch_lora_weights.safetensors`. Stock diffusers loads both. A policy with
vectors for raters has them in `rater_tokens.safetensors`, which stock diffusers doesn't read: there it's nobody's.
Where the policy began from a LoRA, `init` in policy.json is the base model, `init_lora` that file, and the policy's
LoRA file has the sum of both, for the base model: adapter none is then a LoRA, too.
`checksums.json` has the checksums of these files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.core.publishing import replacing
from diffalign.models import family as families
from diffalign.models import init_files, lora_files, rater_tokens
from diffalign.models.lora_files import Factors
from diffalign.models.parts import weights

LORA = init_files.LORA


class PolicyFile(records.Record):
    """The fields of policy.json that loading a policy needs; the others record its training."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    version: Literal[1] = Field(1, alias="schema")
    adapter: Literal["none", "full", "lora"]
    init: Annotated[str, Field(min_length=1)]
    init_fingerprint: str | None = None
    """The checksum of the init's denoiser when the policy was trained."""


def read_policy(folder: Path) -> dict[str, Any]:
    """Reads a policy's metadata; UserError if the folder isn't a policy's or its policy.json was damaged."""
    record = records.read(folder / "policy.json", PolicyFile, f"train@{folder.name}")
    return record.model_dump(by_alias=True)


def check_init(folder: Path, policy: dict[str, Any], denoiser: Path) -> None:
    """Raises UserError if the denoiser that a policy builds on isn't the one that it was trained from."""
    expected = policy["init_fingerprint"]
    if expected and denoiser.is_dir() and (found := weights.folder_digest(denoiser)) != expected:
        raise UserError(
            f"{denoiser}: expected the denoiser that {folder} was trained from (checksum {expected[:12]}), found "
            f"another ({found[:12]}): it was damaged or replaced since. Bring it again, or train again: `dvc repro`."
        )


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
    """Loads the model of `model_path` with a policy's denoiser, ready to sample from or to score with.

    `parts` are loaded beside the denoiser. Raises UserError if a folder isn't what it should be.
    """
    meta = read_policy(folder)
    model = families.load(family, model_path, parts, device)
    if meta["adapter"] != "full":
        check_init(folder, meta, Path(meta["init"]) / model.denoiser_folder)
    model.load_denoiser(folder if meta["adapter"] == "full" else Path(meta["init"]))
    if meta["adapter"] == "lora":
        load_lora(model, folder)
    if (tokens := rater_tokens.read(folder, model.device)) is not None:
        rater_tokens.attach(model.denoiser, tokens)
        model.denoiser.requires_grad_(False)
    return model


def load_lora(model: families.Family, folder: Path) -> None:
    """Puts a policy's LoRA on the denoiser of its init, in place."""
    file = folder / LORA
    if not file.is_file():
        raise UserError(f"{file} is missing: the policy's folder is broken. Delete it and run `dvc repro`.")
    weights.verify(folder, LORA)
    for name, tensor in read_tensors(file).items():
        if not weights.finite(tensor):
            raise weights.not_finite(file, name, tensor)
    denoiser = cast(Any, model.denoiser)
    denoiser.load_lora_adapter(folder, weight_name=file.name, prefix=model.denoiser_folder)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; UserError if it isn't one."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} can't be read: {error}. Make it again: `dvc repro --force train@NAME`.") from error


def publish_untrained(name: str, settings: dict[str, Any], init: str, folder: Path) -> None:
    """Publishes a policy without training: its policy.json says that it is its init, whose weights' hash is `init`."""
    about = {"schema": 1, "name": name, "init_fingerprint": init, "adapter": "none", "steps": 0}
    with replacing(folder) as new:  # without the weights that it had with another method
        rater_tokens.copy(Path(settings["init"]), new)
        write_json(new / "policy.json", {**settings, **about})


def save_denoiser(
    model: families.Family, adapter: str, folder: Path, start: Mapping[str, Factors] | None = None
) -> None:
    """Writes a trained denoiser, unwrapped, in the layout that stock diffusers loads, and its files' checksums.

    `start` is the LoRA that training began from: a LoRA policy's file has the sum of both, for the base model.
    """
    if adapter == "full":
        cast(Any, model.denoiser).save_pretrained(folder / model.denoiser_folder, safe_serialization=True)
    elif adapter == "lora" and start:
        lora_files.save(model, lora_files.summed([*start.items(), *lora_files.of_adapter(model.denoiser)]), folder)
        weights.sort_metadata(folder / LORA)
    elif adapter == "lora":
        save_lora(model, folder)
    weights.note(folder)


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
    weights.sort_metadata(folder / LORA)
