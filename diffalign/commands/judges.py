"""Loads the rewards that a command scores with: by name, with the settings of params.yaml or the usual ones."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.judging import judge
from diffalign.judging.judge import Judge

if TYPE_CHECKING:
    from diffalign.config.params import Params


def load(params: "Params", names: Sequence[str]) -> list[Judge]:
    """Loads some rewards, by default those of params.yaml; UserError where there is none of a name, or no weights."""
    return [judge.load(name, settings(params, name)) for name in dict.fromkeys(names or params.rewards)]


def settings(params: "Params", name: str) -> dict[str, Any]:
    """Returns a reward's settings: those of params.yaml, else the usual ones of a reward with weights, or none.

    Raises UserError where it needs settings of its own.
    """
    given: Mapping[str, Any] = params.model_dump()["rewards"]
    if name in given:
        return dict(given[name])
    model = axes.load("diffalign.config.rewards", name).Settings
    usual = {"path": f"models/rewards/{name}", "batch_size": 16, "sha256": None}
    chosen = {key: value for key, value in usual.items() if key in model.model_fields}
    try:
        return dict(model.model_validate(chosen).model_dump())
    except ValidationError as error:
        missing = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise UserError(
            f"{name}: expected its settings under rewards in params.yaml, found none, and it needs {missing}."
        ) from None
