"""Tensors of a reward's weights: read from safetensors, and compared with those that its network has."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models.parts.weights import finite, not_finite

Shapes = Mapping[str, Sequence[int]]


def read(file: Path, expected: Shapes, unused: str = "") -> dict[str, Tensor]:
    """Reads a file's tensors; UserError unless they are exactly those expected, of their shapes, and finite.

    Tensors whose names begin with `unused` are left out.
    """
    try:
        state = {name: value for name, value in load_file(file).items() if not unused or not name.startswith(unused)}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} can't be read: expected safetensors, found {error}. Convert it again.") from error
    check(str(file), state, expected)
    for name, value in state.items():
        if not finite(value):
            raise not_finite(file, name, value)
    return state


def check(holder: str, state: Mapping[str, Tensor], expected: Shapes) -> None:
    """Raises UserError unless these are exactly the tensors expected: none missing, none besides, each of its shape."""
    wanted = {name: tuple(size) for name, size in expected.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    differing = sorted(name for name in wanted.keys() | found if wanted.get(name) != found.get(name))
    if differing:
        first = differing[0]
        raise UserError(
            f"{holder}: {first}: expected {shape(wanted.get(first))} among {len(wanted)} tensors of this network; "
            f"found {shape(found.get(first))}; {len(differing)} differ. Take the publisher's file again, or one of the "
            "kind that this reward has."
        )


def shape(size: tuple[int, ...] | None) -> str:
    """Returns a tensor's shape as text."""
    return "no tensor" if size is None else str(list(size))
