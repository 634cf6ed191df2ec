"""A vector for each rater, added to the text's tokens: one model that draws for each of them, and for nobody.

Each token that a denoiser attends to is moved by the same vector. One of zeros, and nobody (row -1), change no bit: so
a policy begins as its reference, and a published folder is nobody's model in stock diffusers. A token more wouldn't do:
it takes attention even where it's zeros, and SD3 has no mask to take it away.
Legend: B rows, L tokens, D text width, R raters.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.diffusion.process import Cond, Denoise
from diffalign.models import family as families
from diffalign.models.parts import weights

FILE = "rater_tokens.safetensors"
"""Beside a policy's weights; its metadata has the raters' ids, in the order of the rows."""
MODULE, TENSOR, IDS = "rater_tokens", "vectors", "raters"
WEIGHT = f"{MODULE}.{TENSOR}"
"""The name of the vectors among the parameters of a denoiser that has them."""
COND = "raters"
"""The condition's key: each row's rater, [B], int64."""
NOBODY = -1


class RaterTokens(nn.Module):
    """Holds the vectors [R, D] of raters, by their ids."""

    def __init__(self, ids: Sequence[str], vectors: Tensor) -> None:
        super().__init__()
        self.ids = tuple(ids)
        self.vectors = nn.Parameter(vectors)

    def forward(self, hidden: Tensor, raters: Tensor) -> Tensor:
        """Returns the text states [B, L, D], each row's moved by its rater's vector; nobody's stay."""
        known = (raters >= 0).to(self.vectors.dtype)
        moved = self.vectors[raters.clamp(min=0)] * known[:, None]  # all rows take part: DDP waits for each gradient
        return hidden + moved[:, None].to(hidden.dtype)


def attach(denoiser: nn.Module, tokens: RaterTokens) -> None:
    """Gives a denoiser vectors, in place: they are among its parameters, and its forward takes `raters`."""
    denoiser.add_module(MODULE, tokens)
    denoiser.register_forward_pre_hook(_condition, with_kwargs=True)


def _condition(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    """Moves the text that a denoiser attends to, where it's told the rows' raters."""
    if COND not in kwargs:
        return args, kwargs
    rest = {key: value for key, value in kwargs.items() if key != COND}
    hidden = rest["encoder_hidden_states"]
    return args, rest | {"encoder_hidden_states": of(denoiser)(hidden, kwargs[COND])}


def of(denoiser: nn.Module) -> RaterTokens:
    """Returns a denoiser's vectors; it has some."""
    return cast(RaterTokens, denoiser.get_submodule(MODULE))


def detach(denoiser: nn.Module) -> RaterTokens:
    """Takes a denoiser's vectors from it, in place, so that its own weights alone are saved; returns them."""
    tokens = of(denoiser)
    delattr(denoiser, MODULE)
    return tokens


def without(denoise: Denoise) -> Denoise:
    """Returns a network that isn't told whom it draws for: nobody."""
    return lambda x_t, t, cond: denoise(x_t, t, {key: value for key, value in cond.items() if key != COND})


def start(model: families.Family, ids: Sequence[str], init: Path) -> RaterTokens:
    """Returns the vectors that training starts from: those of an init that has some, zeros for the other raters."""
    known = read(init, model.device)
    if known is None:
        return RaterTokens(ids, torch.zeros(len(ids), width(model), device=model.device))
    vectors = known.vectors.new_zeros(len(ids), known.vectors.shape[1])
    for row, name in enumerate(ids):
        if name in known.ids:
            vectors[row] = known.vectors[known.ids.index(name)].detach()
    return RaterTokens(ids, vectors)


def rows(init: Path, raters: Sequence[str]) -> tuple[str, ...]:
    """Returns whom the vectors are of: an init's raters, in its order, then the others of `raters`."""
    known = read(init)
    return tuple(dict.fromkeys([*(known.ids if known else ()), *raters]))


def width(model: families.Family) -> int:
    """Returns D, the width of what the model's denoiser attends to."""
    config = cast(Any, model.denoiser).config
    return int(config["joint_attention_dim"] if "joint_attention_dim" in config else config["cross_attention_dim"])


def save(tokens: RaterTokens, folder: Path) -> None:
    """Writes vectors into a policy's folder."""
    file = folder / FILE
    save_file({TENSOR: tokens.vectors.detach().float().contiguous().cpu()}, file, {IDS: json.dumps(tokens.ids)})


def copy(init: Path, folder: Path) -> None:
    """Copies the vectors of an init, if it has some, into the folder of a policy that isn't trained."""
    if (tokens := read(init)) is not None:
        save(tokens, folder)


def read(folder: Path, device: torch.device | str = "cpu") -> RaterTokens | None:
    """Reads the vectors of a policy's folder; None where it has none. UserError where they can't be used."""
    file = folder / FILE
    if not file.is_file():
        return None
    weights.verify(folder, FILE)
    try:
        with safe_open(file, "pt", device=str(device)) as opened:
            vectors, ids = opened.get_tensor(TENSOR), json.loads(opened.metadata()[IDS])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{file} can't be read: {error}. Make it again: `dvc repro --force train@NAME`.") from error
    if vectors.dim() != 2 or len(ids) != len(vectors):
        raise UserError(f"{file}: expected a row for each of {len(ids)} raters, found {list(vectors.shape)}.")
    if not weights.finite(vectors):
        raise weights.not_finite(file, TENSOR, vectors)
    return RaterTokens(ids, vectors)


def drawing_for(rater: str | None, model: families.Family, policy: str) -> families.Family:
    """Returns a policy's model, made to draw for one rater, in place; None: nobody, as it is.

    Both halves of guidance are the rater's: where only the prompt's was, guidance took the rater's part times its
    scale, and images got worse. Raises UserError, naming the param, where the model has no vector of that rater.
    """
    if rater is None:
        return model
    ids = of(model.denoiser).ids if MODULE in dict(model.denoiser.named_children()) else ()
    if rater not in ids:
        raise UserError(
            f"generate.overrides.{policy}.rater: expected a rater that the policy has a vector of, "
            f"{', '.join(ids) or 'none: train it with rater_tokens'}, got {rater!r}"
        )
    encode, unconditional, row = model.encode_prompt, model.unconditional, ids.index(rater)

    def told(cond: Cond) -> Cond:
        return {**cond, COND: torch.full((len(next(iter(cond.values()))),), row, device=model.device)}

    changed = cast(Any, model)  # this instance's alone: what makes pictures asks the model for conditions
    changed.encode_prompt = lambda prompts: told(encode(prompts))
    changed.unconditional = lambda: told(unconditional())
    return model
