"""Params as they were resolved, for reading: a policy with all that it takes from `training`."""

from pathlib import Path

from diffalign.config.load import PARAMS, load
from diffalign.core import yaml_file
from diffalign.core.errors import UserError


def shown(path: str, file: Path = PARAMS) -> str:
    """Returns what stands at a dotted path of the resolved params, as YAML; all of them for an empty path.

    Raises UserError where there's nothing of that name, naming what there is.
    """
    found = load(file).model_dump(mode="json")
    for depth, key in enumerate(parts := path.split(".") if path else [], 1):
        if not isinstance(found, dict) or key not in found:
            above = ".".join(parts[: depth - 1]) or str(file)
            there = ", ".join(found) if isinstance(found, dict) else "no keys"
            raise UserError(f"show {path}: expected a key of {above} ({there}), got {key!r}")
        found = found[key]
    return yaml_file.dump(found).removesuffix("...\n")
