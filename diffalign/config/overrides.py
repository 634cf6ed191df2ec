"""Writing values into params.yaml by their paths: comments stay, and the file that was there before is kept."""

import json
from typing import Any

from diffalign.config import presets
from diffalign.config.load import PARAMS, parse
from diffalign.core import yaml_edit, yaml_file
from diffalign.core.errors import UserError
from diffalign.core.files import write_bytes


def write(changes: dict[str, Any], preset: str | None = None) -> str:
    """Writes values by their paths, such as `policies.dpo.beta`, into params.yaml, or into a preset that replaces it.

    Returns what to tell the user. Raises UserError, and writes nothing, for a path that isn't there,
    params that aren't valid then, and a preset where params.yaml was edited by hand.
    """
    source = presets.find(preset) if preset else PARAMS
    if not source.exists():
        raise UserError(f"{PARAMS} is missing. Run this from the project's folder.")
    old = PARAMS.read_bytes() if PARAMS.exists() else b""
    text, said = edited(source.read_text("utf-8"), changes)
    parse(yaml_file.parse(text, str(PARAMS)), str(PARAMS))
    if text.encode() == old:
        return f"{PARAMS} is as asked already."
    if preset:
        presets.check_edits(preset)
    kept = presets.keep(old)
    presets.keep(text.encode())  # so that another run's preset knows that nobody wrote it by hand
    write_bytes(PARAMS, text.encode())
    before = f"{source}: {PARAMS} is that preset now" if preset else f"{PARAMS} was written"
    return "\n".join([f"{before}; the one before is {kept}", *(f"  {line}" for line in said)])


def parsed(changes: list[str]) -> dict[str, Any]:
    """Returns the values of `KEY=VALUE`, each YAML, by their paths; raises UserError for what isn't `KEY=VALUE`."""
    found = {}
    for one in changes:
        path, equals, value = one.partition("=")
        if not equals or not path:
            raise UserError(f"set: expected KEY=VALUE, such as policies.dpo.beta=500, got {one!r}.")
        found[path] = yaml_file.parse(value, path)
    return found


def edited(text: str, changes: dict[str, Any]) -> tuple[str, list[str]]:
    """Returns a params file's text with the changes, all else as it was, and a line `KEY: OLD -> NEW` for each.

    Raises UserError unless the section of each path is there.
    """
    values = yaml_file.parse(text, str(PARAMS))
    said, new = [], {}
    for path, value in changes.items():
        before, after = shown(values, path), json.dumps(value)
        if before != after:
            said.append(f"{path}: {before} -> {after}")
            new[path] = value
    return yaml_edit.changed(text, new), said


def shown(values: Any, path: str) -> str:
    """Returns the value at a path as JSON, "not there" without; raises UserError unless the section above is there."""
    *above, last = path.split(".")
    for part in above:
        if not isinstance(values, dict) or not isinstance(values.get(part), dict):
            raise UserError(f"set: {path}: expected a path in {PARAMS}, found no section {part!r} there.")
        values = values[part]
    return json.dumps(values[last]) if last in values else "not there"
