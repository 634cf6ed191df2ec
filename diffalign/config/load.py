"""Reading params.yaml: one UserError lists every error with its path in the file."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from diffalign.config import checks
from diffalign.config.params import Params
from diffalign.core.errors import UserError


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML's own readers take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key in (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"):
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def load(path: Path = Path("params.yaml")) -> Params:
    """Reads and checks a params file; raises one UserError that lists every error with its path in the YAML."""
    try:
        raw = yaml.load(path.read_text(), _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing. Run this from the project's folder, or make one: python pipeline.py preset sd15"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {error}") from None
    return parse(raw, str(path))


def parse(raw: Any, name: str = "params") -> Params:
    """Checks parsed YAML; raises one UserError that lists every error."""
    params = None
    try:
        params = Params.model_validate(raw)
        lines = checks.found(params)
    except ValidationError as error:
        lines = [f"{_where(e)}: {_what(e)}" for e in error.errors()]
    if params is None or lines:
        listed = "".join(f"\n  {line}" for line in lines)
        raise UserError(f"{name} has {len(lines)} error{'s' if len(lines) > 1 else ''}:{listed}")
    return params


def _where(error: Any) -> str:
    # The tag of a policy's union (its method) stands in pydantic's path but not in the YAML.
    location = [str(part) for part in error["loc"]]
    if len(location) > 2 and location[0] == "policies":
        location = location[:2] + location[3:]
    return ".".join(location) or "(top)"


def _what(error: Any) -> str:
    kind, got = error["type"], repr(error.get("input"))
    got = got if len(got) <= 80 else got[:77] + "..."
    if kind == "extra_forbidden":
        return f"unknown key (misspelt?), got {got}; remove it or correct its name"
    if kind == "missing":
        return "missing; expected a value (see params.yaml of the project for its meaning)"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {got}"
