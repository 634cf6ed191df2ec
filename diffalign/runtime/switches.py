"""The DIFFALIGN_* environment variables: every one is listed here, and all are read by one function."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffalign.core.errors import UserError

PREFIX = "DIFFALIGN_"
ON, OFF = ("1", "on", "true", "yes"), ("0", "off", "false", "no")


@dataclass(frozen=True)
class Kind:
    """Says what a switch accepts: in words for the user, and as a function that gives None for anything else."""

    expected: str
    read: Callable[[str], Any]


def words(*accepted: str) -> Kind:
    """Accepts some words, in any case."""
    return Kind(" or ".join(accepted), lambda text: text.lower() if text.lower() in accepted else None)


def _flag(text: str) -> bool | None:
    return text.lower() in ON if text.lower() in (*ON, *OFF) else None


FLAG = Kind(f"one of {', '.join(ON)} or one of {', '.join(OFF)}", _flag)
COUNT = Kind("a whole number from 1", lambda text: int(text) if re.fullmatch("0*[1-9][0-9]*", text) else None)
ADDRESS = Kind("an http:// or https:// address", lambda text: text if re.match("https?://.", text) else None)
ANY = Kind("any text", lambda text: text)

SWITCHES: dict[str, Kind] = {
    "DIFFALIGN_DEVICE": words("cpu", "cuda"),
    "DIFFALIGN_PROCESSES": COUNT,
    "DIFFALIGN_PRECISION": words("fp32", "bf16"),
    "DIFFALIGN_PARALLEL": words("ddp", "fsdp"),
    "DIFFALIGN_COMPILE": FLAG,
    "DIFFALIGN_LAUNCHER": words("own", "external"),  # who starts the processes of a training
    "DIFFALIGN_TRACKING": FLAG,
    "DIFFALIGN_MLFLOW_UI": ADDRESS,
    "DIFFALIGN_LAUNCH": ANY,  # set by the flow for its stages, not by users
    "DIFFALIGN_UID": ANY,  # docker/compose.yaml reads it
}
"""All switches and their accepted values. White space around a value is ignored; an empty value counts as not set."""


def read(name: str) -> Any:
    """Returns a switch's value as its kind reads it, None where it isn't set; UserError for anything else."""
    kind, text = SWITCHES[name], os.environ.get(name, "").strip()
    if not text:
        return None
    if (value := kind.read(text)) is None:
        raise UserError(f"{name}: expected {kind.expected}, got {text!r}. Correct it, or unset it.")
    return value


def check() -> None:
    """Raises UserError where a DIFFALIGN_* variable is none of the switches, or has a value that its kind refuses."""
    for name in sorted(name for name in os.environ if name.startswith(PREFIX)):
        if name not in SWITCHES:
            known = ", ".join(key for key, kind in SWITCHES.items() if kind is not ANY)
            raise UserError(f"{name} in the environment: expected one of {known}. Correct the name, or unset it.")
        read(name)
