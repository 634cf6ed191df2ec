"""Our own JSON files through schemas: metrics, scores, curves, manifests.

The stage that writes a file and those that read it share one model of it. A file that was edited, damaged or written by
another version is a UserError that names the file, the first places where it differs from the model, and the stage that
makes it again.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from diffalign.core.errors import UserError
from diffalign.core.files import write_json, write_json_lines

SHOWN = 3
"""Places of a damaged file that the message names, at most."""
LONGEST = 80
"""Characters of a wrong value that the message shows."""


class Record(BaseModel):
    """Base of the models: frozen, no conversions ("1" is no number), no unknown keys, every number finite.

    A key that Python can't have as a field, such as `schema`, is a field with an alias.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)


R = TypeVar("R", bound=BaseModel)


def read(path: Path, model: type[R], stage: str) -> R:
    """Reads a JSON file as `model`; UserError naming `stage`, which makes it, if it's missing or isn't one."""
    return parse(text_of(path, stage), path, model, stage)


def read_lines(path: Path, model: type[R], stage: str) -> list[R]:
    """Reads a file with one JSON object a line; UserError naming the line, see `read`."""
    return [
        parse(line, path, model, stage, f"line {number}: ")
        for number, line in enumerate(text_of(path, stage).splitlines(), 1)
    ]


def write(path: Path, record: BaseModel) -> None:
    """Writes a record as readable JSON, atomically."""
    write_json(path, record.model_dump(mode="json"))


def write_lines(path: Path, records: Iterable[BaseModel]) -> None:
    """Writes records as JSON, one a line, atomically; keys are in the order of the model's fields."""
    write_json_lines(path, (record.model_dump(mode="json") for record in records))


def plain(path: Path, keys: Iterable[str], remedy: str) -> dict[str, Any]:
    """Reads a JSON object that has no model; UserError with `remedy` if it isn't one or lacks one of `keys`."""
    keys = list(keys)
    wanted = f"a JSON object with {', '.join(keys)}" if keys else "a JSON object"
    try:
        found = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: expected {wanted}, found {error}. {remedy}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected {wanted}, found {shortened(found)}. {remedy}")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{path}: expected {wanted}, found one without {', '.join(missing)}. {remedy}")
    return found


def text_of(path: Path, stage: str) -> str:
    """Returns a file's text; UserError naming `stage` if it can't be read or isn't UTF-8."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: expected what stage {stage} makes. Run `dvc repro {stage}`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, stage, [str(error)]) from None


def parse(text: str, path: Path, model: type[R], stage: str, place: str = "") -> R:
    """Checks JSON text against `model`; UserError for the file at `path`, `place` before what's wrong."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, stage, [place + line for line in differences(error)]) from None


def differences(error: ValidationError) -> Iterator[str]:
    """Yields what differs from a model, a line a place: its dotted path, what was expected, what was found."""
    for found in error.errors():
        where = ".".join(map(str, found["loc"]))
        text = found["msg"][0].lower() + found["msg"][1:]
        value = "" if found["type"] in ("missing", "json_invalid") else f", found {shortened(found['input'])}"
        yield f"{where}: {text}{value}" if where else f"{text}{value}"


def shortened(value: Any) -> str:
    """Returns a value as text, cut to what fits in a message; null, true and false are as in JSON."""
    text = json.dumps(value) if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def damaged(path: Path, stage: str, lines: list[str]) -> UserError:
    """Returns the error for a file that isn't as its stage left it: what's wrong with it, and how it's made again."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return UserError(
        f"{path} isn't as stage {stage} left it, or another version wrote it: {'; '.join(lines[:SHOWN])}{more}. "
        f"Make it again: `dvc repro --force --single-item {stage}`."
    )
