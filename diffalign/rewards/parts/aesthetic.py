"""The head of LAION's aesthetic predictor: five linear layers without activations, which are one affine map.

Legend: D width of CLIP's embeddings.
"""

from collections.abc import Mapping

from torch import Tensor

from diffalign.core.errors import UserError

WIDTHS = (1024, 128, 64, 16, 1)
LAYERS = (0, 2, 4, 6, 7)
"""The layers' numbers in the checkpoint; dropout stood between them."""


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the checkpoint's tensors by name, for embeddings [D]."""
    found: dict[str, tuple[int, ...]] = {}
    for number, into, out in zip(LAYERS, (width, *WIDTHS), WIDTHS, strict=False):
        found |= {f"layers.{number}.weight": (out, into), f"layers.{number}.bias": (out,)}
    return found


def checked(state: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Returns the head's tensors, float32; UserError unless they are the checkpoint's, finite, for embeddings [D]."""
    expected = shapes(width)
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != expected:
        differing = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
        raise UserError(
            f"the aesthetic predictor's head: expected {len(expected)} tensors for embeddings of {width} numbers, "
            f"{differing[0]} {expected.get(differing[0], 'not among them')}, found {found.get(differing[0], 'none')}. "
            "Take sac+logos+ava1-l14-linearMSE.pth from its publisher again."
        )
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise UserError(
            "the aesthetic predictor's head: expected finite numbers, found NaN or infinity. Bring it again."
        )
    return {name: value.float() for name, value in state.items()}


def folded(state: Mapping[str, Tensor]) -> tuple[Tensor, float]:
    """Returns (weight [D] float32, bias) of the layers, one after the other, as one; computed in float64."""
    first, *others = ((state[f"layers.{n}.weight"].double(), state[f"layers.{n}.bias"].double()) for n in LAYERS)
    weight, bias = first
    for matrix, shift in others:
        weight, bias = matrix @ weight, matrix @ bias + shift
    return weight[0].float(), float(bias[0])
