"""Reading a model folder's config files: every key is checked before anything is built from it.

A key is one of three kinds. A field of the schema is checked here and used, by this project or by the class of
diffusers or transformers that the file configures. A name in `neutral` changes no number and is ignored. Any other is
refused: it might change what the model computes. Bounds are far beyond any published model; they keep nonsense from
taking memory.
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.core.records import shortened

Size = Annotated[int, Field(ge=1, le=65536)]
"""A width, a length, a number of channels."""
Few = Annotated[int, Field(ge=1, le=256)]
"""A number of layers, blocks, heads."""
Vocabulary = Annotated[int, Field(ge=1, le=2_000_000)]
Token = Annotated[int, Field(ge=-1, le=2_000_000)] | None
Epsilon = Annotated[float, Field(gt=0, le=0.1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1e4)]
Blocks = Annotated[list[Size], Field(min_length=1, max_length=16)]
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
LARGEST = 1_000_000
"""Bytes that a config file may have; published ones have some thousands."""


class Config(BaseModel):
    """A config file: strict types, no NaN or infinity, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    neutral: ClassVar[frozenset[str]] = frozenset()
    """Keys that are allowed with any value: nothing reads them, or nothing that this project uses."""

    def problems(self) -> list[str]:
        """Lists what is wrong among keys that are each valid alone, as "key: expected ..., found ..."."""
        return []


class DiffusersConfig(Config):
    """A config file that diffusers wrote."""

    diffusers_version: str | None = Field(None, alias="_diffusers_version")
    name_or_path: str | None = Field(None, alias="_name_or_path")


C = TypeVar("C", bound=Config)


def read(schema: type[C], path: Path) -> C:
    """Reads and checks a config file; raises one UserError with every key that can't be used, and its value."""
    raw = read_json(path)
    try:
        config = schema.model_validate({key: value for key, value in raw.items() if key not in schema.neutral})
    except ValidationError as error:
        raise UserError(refusal([f"{path}: {line}" for line in lines(error)])) from None
    if problems := config.problems():
        raise UserError(refusal([f"{path}: {line}" for line in problems]))
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; UserError if the file isn't one, or is larger than a config file can be."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"expected at most {LARGEST} bytes, found {path.stat().st_size}")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, found {type(config).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a readable config: {error!r}. Take the file from the model's publisher again"
            f" (for models from the hub: `{COMMAND} fetch`)."
        ) from error
    return config


def refusal(found: list[str]) -> str:
    """Returns the message for config keys that can't be used, one a line."""
    listed = "".join(f"\n  {line}" for line in found)
    return (
        f"The model's config can't be used, {len(found)} error{'s' if len(found) > 1 else ''}:{listed}\n"
        "A key that changes what a model computes is never ignored. Take the file from the model's publisher again, "
        "remove a key that is known to change nothing, or choose a model of a supported kind (model.family)."
    )


def lines(error: ValidationError) -> list[str]:
    """Returns "key: expected ..., found ..." for each key of a validation error."""
    said: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for each in error.errors():
        key = str(each["loc"][0])
        text = expected(each["type"], each["msg"])
        said.setdefault(key, [])
        if text not in said[key]:
            said[key].append(text)
        found.setdefault(key, each["input"] if each["type"] != "missing" else None)
        if len(each["loc"]) > 1 and each["type"] != "missing" and isinstance(each["loc"][1], int):
            found[key] = each["input"]
    return [f"{key}: {' or '.join(texts)}, found {shortened(found[key])}" for key, texts in said.items()]


def expected(kind: str, message: str) -> str:
    """Returns pydantic's message as "expected ..."."""
    if kind == "extra_forbidden":
        return "unknown key: expected only keys whose meaning is known"
    if kind == "missing":
        return "expected a value (the key is missing)"
    if kind == "none_required":
        return "expected null"
    return "expected " + message.removeprefix("Input should be ").removeprefix("Value error, ")
