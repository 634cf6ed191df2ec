"""Where a tensor of diffusers' layout goes in a checkpoint of the original layout, and the checkpoint made of all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.core.errors import UserError

THIRDS = 3


@dataclass(frozen=True)
class Place:
    """A tensor's name in the original layout, and which of that tensor's rows it is.

    `third`: 0, 1 or 2 where query, key and value are one tensor. `swapped`: the two halves of its rows change places
    (scale and shift). `turned`: a matrix that is stored transposed. `conv`: a matrix that is stored as a 1 x 1
    convolution.
    """

    name: str
    third: int | None = None
    swapped: bool = False
    turned: bool = False
    conv: bool = False

    def stored(self, tensor: Tensor) -> Tensor:
        """Returns a tensor's values as they are stored, of a third that third alone."""
        if self.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if self.turned:
            tensor = tensor.T
        if self.conv and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        return tensor.contiguous()


Places = Callable[[str], Place]


def unknown(name: str, what: str) -> UserError:
    """Returns the error for a tensor that the original layout has no name for."""
    return UserError(
        f"export: expected a {what} as Stable Diffusion's own, found the tensor {name}, for which the original layout "
        "has no name: UIs couldn't load it. Export a pipeline instead: --to pipeline"
    )


def checkpoint(tensors: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Returns tensors by their names in the original layout; thirds are joined. UserError where a name is unknown."""
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        place = places(name)
        if place.third is None:
            found[place.name] = place.stored(tensor)
        else:
            thirds.setdefault(place.name, {})[place.third] = place.stored(tensor)
    for name, parts in thirds.items():
        if len(parts) != THIRDS:
            raise UserError(f"export: {name}: expected query, key and value, found {len(parts)} of them")
        found[name] = torch.cat([parts[i] for i in range(THIRDS)])
    return found
