"""Reads LoRA files of diffusers, PEFT and kohya's scripts as changes of a denoiser's modules, and writes sums of them.

A module's change of its weight is up @ down, the scale alpha / rank in `up`; R is the rank. up [out, R]; down [R, in],
of a convolution [R, in * k * k].
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.models.family import Family
from diffalign.models.layouts import original
from diffalign.models.layouts.place import THIRDS, Place
from diffalign.models.parts import weights
from diffalign.models.parts.configs.model import CONFIG

ADAPTER = "lora_adapter_metadata"
"""The key under which diffusers keeps PEFT's config in a file's metadata."""
FACTOR = re.compile(
    r"(?P<stem>.+?)(\.lora_(?P<peft>[AB])(\.default)?\.weight|[._]lora[._](?P<kohya>down|up)\.weight|\.(?P<alpha>alpha))"
)
"""The names of a module's three tensors: PEFT's, kohya's, and diffusers' older ones."""
CARRIERS = (nn.Linear, nn.Conv2d)
SHOWN = 4
"""Names in a message, at most."""


@dataclass(frozen=True)
class Factors:
    """A module's change; the scale is in `up`."""

    up: Tensor
    down: Tensor

    @property
    def change(self) -> Tensor:
        """Returns the change [out, in * k * k], float32."""
        return self.up @ self.down


@dataclass(frozen=True)
class Target:
    """A module by its name in the denoiser, and where in a file's matrix its rows are."""

    module: str
    place: Place


def read(file: Path, model: Family, config: Path) -> dict[str, Factors]:
    """Reads a LoRA file for a model's denoiser, whose config file lies in the folder `config`: factors by module.

    Raises UserError, naming the first tensors, where some are no module's of the denoiser, or aren't a LoRA's.
    """
    tensors, settings = contents(file, model.denoiser_folder)
    targets = names(model, config)
    stems: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        found = FACTOR.fullmatch(name)
        if found is None or found["stem"] not in targets:
            unknown.append(name)
            continue
        part = "alpha" if found["alpha"] else {"A": "down", "B": "up"}.get(found["peft"]) or found["kohya"]
        stems.setdefault(found["stem"], {})[part] = tensor
    if unknown or not stems:
        raise refusal(file, model, unknown, len(tensors))
    modules = dict(model.denoiser.named_modules())
    result: dict[str, Factors] = {}
    for stem, parts in stems.items():
        if not {"up", "down"} <= parts.keys():
            raise UserError(f"{file}: {stem}: expected both factors of a LoRA, found {', '.join(sorted(parts))} only")
        for target in targets[stem]:
            factors = of_target(target, parts, settings)
            check_shape(file, stem, factors, modules[target.module])
            result[target.module] = factors
    return result


def contents(file: Path, folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns a file's tensors and PEFT's settings in its metadata; UserError where it can't be read or has a NaN."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            settings = json.loads((opened.metadata() or {}).get(ADAPTER, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} can't be read as a LoRA: {error}. Expected a .safetensors file.") from error
    for name, tensor in tensors.items():
        if not weights.finite(tensor):
            raise weights.not_finite(file, name, tensor)
    return tensors, {key.removeprefix(f"{folder}."): value for key, value in settings.items()}


def names(model: Family, config: Path) -> dict[str, list[Target]]:
    """Returns the modules of a denoiser that can carry LoRA by the names that files give them.

    diffusers': the folder in front; its older scripts': the attention's processor in between; kohya's: underscores, of
    diffusers' names or of the original layout's, where query, key and value are one matrix.
    """
    folder, places = model.denoiser_folder, layout(model, config)
    found: dict[str, list[Target]] = {}
    for name, module in model.denoiser.named_modules():
        if not isinstance(module, CARRIERS):
            continue
        own, flat = Target(name, Place(name)), name.replace(".", "_")
        parent, _, leaf = name.removesuffix(".0").rpartition(".")
        for alias in (f"{folder}.{name}", f"{folder}.{parent}.processor.{leaf}", f"lora_unet_{flat}"):
            found[alias] = [own]
        found[f"lora_{folder}_{flat}"] = [own]
        if (place := places(name)) is not None:
            alias = f"lora_unet_{place.name.replace('.', '_')}"
            found[alias] = [*([] if place.third is None else found.get(alias, [])), Target(name, place)]
    return found


def layout(model: Family, config: Path) -> Any:
    """Returns the function from a module's name to its place in the original layout, None where it has none."""
    family = type(model).__module__.rpartition(".")[2]
    places = original.ORIGINALS[family].denoiser(config / CONFIG) if family in original.ORIGINALS else None

    def place(name: str) -> Place | None:
        try:
            return places(name) if places else None
        except UserError:
            return None

    return place


def of_target(target: Target, parts: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Factors:
    """Returns the factors of a module among those of a file's matrix, its scale in `up`, in float32."""
    up, down = parts["up"].float().flatten(1), parts["down"].float().flatten(1)
    rank = down.shape[0]
    if "alpha" in parts:
        scale = float(parts["alpha"]) / rank
    else:
        alpha = of_module(settings, target.module, "alpha_pattern", settings.get("lora_alpha", rank))
        scale = alpha / (sqrt(rank) if settings.get("use_rslora") else rank)
    if target.place.third is not None:
        up = up.chunk(THIRDS)[target.place.third]
    if target.place.swapped:
        up = torch.cat(up.chunk(2)[::-1])
    return Factors(scale * up, down)


def of_module(settings: Mapping[str, Any], module: str, patterns: str, default: float) -> float:
    """Returns a module's value of PEFT's settings: of the first pattern that is its name or the end of it."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(value)
    return default


def check_shape(file: Path, stem: str, factors: Factors, module: nn.Module) -> None:
    """Raises UserError unless factors have the shape of a module's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    expected = (weight.shape[0], weight[0].numel())
    found = (factors.up.shape[0], factors.down.shape[1])
    if found != expected or factors.up.shape[1] != factors.down.shape[0]:
        raise UserError(
            f"{file}: {stem}: expected factors of a weight {list(expected)}, found {list(factors.up.shape)} and "
            f"{list(factors.down.shape)}: the LoRA is of another model"
        )


def refusal(file: Path, model: Family, unknown: list[str], count: int) -> UserError:
    """Returns the error for a file with tensors that are no module's."""
    if not unknown:
        return UserError(f"{file}: expected a LoRA, found no tensors in it")
    shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
    text = [name for name in unknown if name.startswith(("lora_te", "text_encoder"))]
    advice = (
        f" {len(text)} of them are a text encoder's, which isn't trained here and whose encodings are kept: merge that "
        "part into model.path's text encoder, or take a LoRA of the denoiser alone (kohya: --network_train_unet_only)."
        if text
        else " Is it of another model, or of another kind than LoRA (LoHa, LoKr, DoRA)?"
    )
    what = type(model.denoiser).__name__
    return UserError(
        f"{file}: expected a LoRA of the {what} in model.path, found {len(unknown)} of {count} tensors that belong to "
        f"none of its modules: {shown}.{advice}"
    )


@torch.no_grad()
def merge(model: Family, lora: Mapping[str, Factors]) -> None:
    """Adds a LoRA to the weights of a denoiser, in place."""
    for name, factors in lora.items():
        weight: Any = model.denoiser.get_submodule(name).weight
        change = factors.change.reshape(weight.shape)
        weight += change.to(weight.device, weight.dtype)


def summed(loras: Iterable[tuple[str, Factors]]) -> dict[str, Factors]:
    """Returns the sum of several LoRAs' changes, exactly: a module's ranks add up."""
    found: dict[str, Factors] = {}
    for name, one in loras:
        other = found.get(name)
        found[name] = (
            one if other is None else Factors(torch.cat([other.up, one.up], 1), torch.cat([other.down, one.down]))
        )
    return found


def of_adapter(denoiser: Any, adapter: str = "default") -> Iterator[tuple[str, Factors]]:
    """Yields the changes that PEFT's adapter makes to the modules of a denoiser that carries it."""
    for name, module in denoiser.named_modules():
        if adapter in getattr(module, "lora_A", {}):
            up, down = module.lora_B[adapter].weight, module.lora_A[adapter].weight
            yield name, Factors(module.scaling[adapter] * up.detach().flatten(1), down.detach().flatten(1))


def save(model: Family, lora: Mapping[str, Factors], folder: Path) -> None:
    """Writes a LoRA for the stock pipeline's `load_lora_weights(folder)`.

    It has one rank, to which lower ones are filled with zeros, and alpha is the rank, so that the scale is 1: other
    programs read files of one rank and one alpha.
    """
    import diffusers
    from peft import LoraConfig

    rank = max(factors.down.shape[0] for factors in lora.values())
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(lora)).to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    modules = {name: module for name, module in model.denoiser.named_modules() if name in lora}
    tensors = {
        f"{name}.lora_{letter}.weight": tensor
        for name, factors in lora.items()
        for letter, tensor in zip("AB", as_peft(factors, rank, modules[name]), strict=True)
    }
    part = model.denoiser_folder
    layers = {f"{part}_lora_layers": tensors, f"{part}_lora_adapter_metadata": plain}
    getattr(diffusers, model.pipeline).save_lora_weights(folder, **layers, safe_serialization=True)


def as_peft(factors: Factors, rank: int, module: Any) -> tuple[Tensor, Tensor]:
    """Returns A and B as PEFT has them for a module, filled with zeros up to a rank."""
    fill = rank - factors.down.shape[0]
    pad = partial(nn.functional.pad, value=0.0)
    down, up = pad(factors.down, (0, 0, 0, fill)), pad(factors.up, (0, fill))
    base: Any = getattr(module, "base_layer", module)
    if isinstance(base, nn.Conv2d):
        down, up = down.reshape(rank, *base.weight.shape[1:]), up[:, :, None, None]
    return down.contiguous().cpu(), up.contiguous().cpu()
