"""Five linear layers without activations, which are one affine map: the head of two published rewards.

Legend: D width of what the head reads.
"""

from collections.abc import Mapping

from torch import Tensor

WIDTHS = (1024, 128, 64, 16, 1)
LAYERS = (0, 2, 4, 6, 7)
"""The layers' numbers in the checkpoints; dropout stood between them."""


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the checkpoints' tensors by name, for a head that reads [D]."""
    found: dict[str, tuple[int, ...]] = {}
    for number, into, out in zip(LAYERS, (width, *WIDTHS), WIDTHS, strict=False):
        found |= {f"layers.{number}.weight": (out, into), f"layers.{number}.bias": (out,)}
    return found


def folded(state: Mapping[str, Tensor]) -> tuple[Tensor, float]:
    """Returns (weight [D] float32, bias) of the layers, one after the other, as one; computed in float64."""
    first, *others = ((state[f"layers.{n}.weight"].double(), state[f"layers.{n}.bias"].double()) for n in LAYERS)
    weight, bias = first
    for matrix, shift in others:
        weight, bias = matrix @ weight, matrix @ bias + shift
    return weight[0].float(), float(bias[0])
