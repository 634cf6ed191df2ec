"""Reading params.yaml: what each policy takes from `training` is filled in, and one error lists all that is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from diffalign.config import audit, checks, gate, rounds
from diffalign.config.params import METHODS, Params
from diffalign.config.samplers import SAMPLERS
from diffalign.config.training import Training
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND

PARAMS = Path("params.yaml")
MOVED = {
    "adapter": "it's `lora` now: null for all weights, else {rank, alpha, targets}",
    "lora_rank": "it's `lora.rank` now",
    "lora_alpha": "it's `lora.alpha` now",
    "lora_targets": "it's `lora.targets` now",
    "log_every": "it's `runtime.log_every` now, for all policies",
    "checkpoint_every": "it's `runtime.checkpoint_every` now, for all policies",
    "keep_checkpoints": "it's `runtime.keep_checkpoints` now, for all policies",
    "split": "it's in `generate.prompts` now: {validation: 100} for 100 prompts of that split",
    "scorers": "it's `rewards` now: under `probe` a list of names, for all images a section of its own",
}
"""Keys of version 0.1, and where they went."""


def load(path: Path = PARAMS) -> Params:
    """Reads and checks a params file; raises one UserError that lists every error with its path in the YAML."""
    return parse(read(path), str(path))


def read(path: Path = PARAMS) -> Any:
    """Returns the values that stand in a params file, unchecked, as DVC sees them; raises UserError for no YAML."""
    try:
        return yaml_file.read(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing. Run this from the project's folder, or make one: {COMMAND} preset sd15"
        ) from None


def parse(raw: Any, name: str = "params") -> Params:
    """Checks the values of a params file; raises one UserError that lists every error."""
    params = None
    try:
        params = Params.model_validate(resolved(raw))
        lines = checks.problems(params)
    except ValidationError as error:
        lines = described(raw, error.errors(include_url=False, include_context=False))
    if params is None or lines:
        listed = "".join(f"\n  {line}" for line in lines)
        raise UserError(f"{name} has {len(lines)} error{'s' if len(lines) > 1 else ''}:{listed}")
    return params


def resolved(raw: Any) -> Any:
    """Returns the values with each trained policy's in full: its own, and those of `training` for keys it lacks.

    A key of a policy replaces the whole value of `training`, a mapping such as `lora` too. An init that is a round
    becomes that of the round's policy. What isn't a mapping where one should be is left as it is.
    """
    training, policies, chained = (section(raw, key) for key in ("training", "policies", "rounds"))
    full = {
        name: {**training, **rounds.started(policy, chained, policies)}
        if isinstance(policy, Mapping) and policy.get("method") != "none"
        else policy
        for name, policy in policies.items()
    }
    return {**raw, "policies": full} if full else raw


def section(raw: Any, key: str) -> Mapping[Any, Any]:
    """Returns a section that is a mapping; an empty one for anything else."""
    found = raw.get(key) if isinstance(raw, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def described(raw: Any, errors: list[Any]) -> list[str]:
    """Returns pydantic's errors as lines `path: what`, a wrong value of `training` once and not for each policy."""
    wrong = {error["loc"][1] for error in errors if error["loc"][:1] == ("training",) and len(error["loc"]) > 1}
    return [f"{where(error)}: {what(error)}{source(raw, error)}" for error in errors if not repeated(raw, error, wrong)]


def inherited(raw: Any, error: Any) -> str | None:
    """Returns the key of `training` that an error of a policy is about, where the policy doesn't give it itself."""
    place = error["loc"]
    if place[:1] != ("policies",) or len(place) < 4 or place[3] in section(raw, "policies")[place[1]]:
        return None
    return place[3] if place[3] in Training.model_fields or place[3] in section(raw, "training") else None


def repeated(raw: Any, error: Any, wrong: set[Any]) -> bool:
    """Tells whether a policy's error is one of `training`, whose keys in `wrong` have errors that are listed there."""
    key = inherited(raw, error)
    return key is not None and (key in wrong or error["type"] == "missing")


def source(raw: Any, error: Any) -> str:
    """Returns where a policy's wrong value comes from, if not from the policy."""
    return " (from training)" if inherited(raw, error) else ""


def tags(union: Any, key: str) -> tuple[str, ...]:
    """Returns what a key may be that says which of a union's settings are meant."""
    return tuple(get_args(one.model_fields[key].annotation)[0] for one in get_args(get_args(union)[0]))


TAGS = {
    "policies": ("method", METHODS),
    "audit": ("by", tags(audit.Attribute, "by")),
    "gate": ("figure", tags(gate.Condition, "figure")),
}
"""By section, the key that says which settings are meant, and what it may be; elsewhere it's a sampler's name."""


def key_of(error: Any) -> str:
    """Returns the key that says which settings are meant: a policy's method, a sampler's name."""
    return TAGS.get(error["loc"][0], ("name",))[0]


def words_of(error: Any) -> tuple[str, ...]:
    """Returns what that key may be."""
    return TAGS[error["loc"][0]][1] if error["loc"][0] in TAGS else tuple(SAMPLERS)


def where(error: Any) -> str:
    """Returns an error's path in the YAML; a policy's method stands in pydantic's path, but not there."""
    place = [str(part) for part in error["loc"]]
    if error["type"].startswith("union_tag"):
        return ".".join([*place, key_of(error)])
    if place[0:1] == ["policies"] and len(place) > 2:
        place = place[:2] + place[3:]
    if (
        place[0:1] in (["audit"], ["gate"]) and len(place) > 4 and place[3] in words_of(error)
    ):  # likewise its key's value
        del place[3]
    if place[0:1] == ["generate"] and "sampler" in place[:-1]:  # likewise the sampler's name
        del place[place.index("sampler") + 1]
    return ".".join(place) or "(top)"


def what(error: Any) -> str:
    """Returns what was expected and what was got."""
    kind, got = error["type"], repr(error.get("input"))
    got = got if len(got) <= 80 else got[:77] + "..."
    if kind == "extra_forbidden":
        if moved := MOVED.get(str(error["loc"][-1])):
            return f"this key moved: {moved}"
        return f"unknown key (misspelt?), got {got}; remove it or correct its name"
    if kind == "missing":
        return "missing; expected a value (see docs/params.md for its meaning)"
    if kind == "union_tag_not_found":
        return f"missing; expected one of {', '.join(words_of(error))}"
    if kind == "union_tag_invalid":
        return f"expected one of {', '.join(words_of(error))}, got {error['input'][key_of(error)]!r}"
    if kind == "string_pattern_mismatch":
        return f"expected a name of lower-case letters, digits and _ that begins with a letter, got {got}"
    if kind == "string_type" and isinstance(error["input"], int | float):
        return f"expected text, got {got}: put it in quotes"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"expected a mapping, got {got}"
    expected = error["msg"].removeprefix("Input should be ")
    if expected == error["msg"]:
        return f"{expected[0].lower()}{expected[1:]}, got {got}"
    return f"expected {expected}, got {got}"
