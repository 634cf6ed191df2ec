"""`params.yaml` from `presets/`, without losing one that was edited."""

import subprocess
from pathlib import Path

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.core import home
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes, write_bytes
from diffalign.core.home import COMMAND

PARAMS = Path("params.yaml")
KEPT = Path("runs/params")
"""Versions of params.yaml that a command replaced or wrote."""


def use(name: str, force: bool = False) -> str:
    """Writes `presets/NAME.yaml` to `params.yaml` and returns what to tell the user.

    Raises UserError for an unknown or invalid preset, and, unless `force`, where params.yaml was edited: where it is
    neither a preset nor what git has.
    """
    source = find(name)
    values = load(source)
    new = source.read_bytes()
    if PARAMS.exists() and PARAMS.read_bytes() == new:
        return f"{PARAMS} is {source} already."
    if not force:
        check_edits(name)
    write_bytes(PARAMS, new)
    return "\n".join([f"{PARAMS} is {source} now.", *_to_bring(values)])


def _to_bring(values: Params) -> list[str]:
    """Returns a line for each kind of thing that the params name and that isn't there, with the command for it."""
    data = values.data.path
    missing = [path for path in (data, values.model.path) if not Path(path).exists()]
    judges = [name for name, settings in values.rewards.items() if not Path(getattr(settings, "path", ".")).exists()]
    lines = [f"{' and '.join(missing)} must be brought first: {COMMAND} fetch"] if missing else []
    if data in missing:
        lines.append(f"Pairs of your own: {COMMAND} import SOURCE --to {data}")
    return lines + ([f"Weights of {' and '.join(judges)}: {COMMAND} fetch --rewards"] if judges else [])


def find(name: str) -> Path:
    """Returns a preset's file; raises UserError where there's none of that name."""
    known = home.presets()
    if name not in known:
        raise UserError(f"preset: expected one of {', '.join(sorted(known))}, got {name!r}.")
    return known[name]


def check_edits(name: str) -> None:
    """Raises UserError where a preset would overwrite a params.yaml that was edited by hand."""
    if PARAMS.exists() and _edited():
        raise UserError(
            f"{PARAMS} has changes that git doesn't have, and {find(name)} would overwrite them. "
            f"Commit or copy it first, or say: {COMMAND} preset {name} --force"
        )


def keep(data: bytes) -> Path:
    """Keeps a version of params.yaml, named by its checksum; returns where."""
    path = KEPT / f"{sha256_bytes(data)[:12]}.yaml"
    KEPT.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return path


def _edited() -> bool:
    old = PARAMS.read_bytes()
    if any(path.read_bytes() == old for path in [*home.presets().values(), *KEPT.glob("*.yaml")]):
        return False
    committed = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    return committed.returncode != 0 or committed.stdout != old
