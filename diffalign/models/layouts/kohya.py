"""A LoRA in the names and the form of kohya's scripts, which ComfyUI, A1111 and the others load.

A module's name has underscores for its dots and `lora_unet_` in front; its change is alpha / rank * up @ down. Where
the original layout has query, key and value in one matrix, so has the LoRA: the ranks add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.models.layouts.place import THIRDS, Place, Places

PREFIX = "lora_unet_"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Factors:
    """A module's change of its weight: scale * up @ down; up [out, R], down [R, in], of convolutions [R, in, k, k]."""

    up: Tensor
    down: Tensor


def convert(lora: Mapping[str, Tensor], folder: str, scale: float, places: Places | None) -> dict[str, Tensor]:
    """Returns a LoRA's tensors by kohya's names: of each module lora_down.weight, lora_up.weight and alpha.

    `lora` is by PEFT's names, with the denoiser's `folder` in front; `scale` is what the product is multiplied by;
    `places` names modules as the original layout does, None leaves diffusers' names.
    """
    whole: dict[str, Factors] = {}
    thirds: dict[str, dict[int, Factors]] = {}
    for name, factors in modules(lora, folder).items():
        place = places(name) if places else Place(name)
        if place.third is not None:
            thirds.setdefault(place.name, {})[place.third] = factors
        else:
            whole[place.name] = Factors(place.stored(factors.up), factors.down)
    whole |= {name: joined(parts) for name, parts in thirds.items()}
    found: dict[str, Tensor] = {}
    for name, factors in whole.items():
        stem = PREFIX + name.replace(".", "_")
        found[f"{stem}.lora_up.weight"] = factors.up.contiguous()
        found[f"{stem}.lora_down.weight"] = factors.down.contiguous()
        found[f"{stem}.alpha"] = torch.tensor(scale * factors.down.shape[0], dtype=torch.float32)
    return found


def modules(lora: Mapping[str, Tensor], folder: str) -> dict[str, Factors]:
    """Returns the factors of each module, by its name in the denoiser."""
    names = [name.removesuffix(DOWN) for name in lora if name.endswith(DOWN)]
    return {name.removeprefix(f"{folder}."): Factors(lora[name + UP], lora[name + DOWN]) for name in names}


def joined(parts: Mapping[int, Factors]) -> Factors:
    """Returns the factors of one matrix whose thirds of rows have these; a third without LoRA doesn't change."""
    rows = next(iter(parts.values())).up.shape[0]
    ranks = sum(part.down.shape[0] for part in parts.values())
    up = torch.zeros(THIRDS * rows, ranks, dtype=next(iter(parts.values())).up.dtype)
    column = 0
    for third, part in sorted(parts.items()):
        rank = part.down.shape[0]
        up[third * rows : (third + 1) * rows, column : column + rank] = part.up
        column += rank
    return Factors(up, torch.cat([part.down for _, part in sorted(parts.items())]))
