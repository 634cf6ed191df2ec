"""Names runs in MLflow by what changed since the run before, and says where a run comes from."""

import getpass
from collections.abc import Mapping
from functools import cache
from typing import Any

from diffalign.core.files import canonical_json
from diffalign.core.home import COMMAND
from diffalign.reporting.made_by import git_commit
from diffalign.runtime.processes import dvc_above
from diffalign.tracking.dag import flatten

TRAIN = "train"
BETA = "beta"
SYMBOLS = {BETA: "β"}
MOST = 3
"""Changes that a name tells of."""
LONGEST = 24
"""Characters of a value in a name."""


def texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns nested params under dotted names, as the texts that MLflow keeps; a number's is its JSON."""
    flat = flatten(dict(params))
    return {key: value if isinstance(value, str) else canonical_json(value) for key, value in flat.items()}


def run_params(stage: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a stage's run shows as its params; `params` has the sections that dvc.yaml gives the stage.

    A policy's training has what it trains with under plain names, such as `beta` and `lr`: the same for all policies,
    so that MLflow draws them against results.
    """
    base, _, key = stage.partition("@")
    own = params.get(f"policies.{key}")
    if base != TRAIN or not isinstance(own, dict):
        return dict(params)
    rest = {name: value for name, value in params.items() if name not in (f"policies.{key}", "training")}
    return rest | (own if own.get("method") == "none" else {**params.get("training", {}), **own})


def of_stage(stage: str, params: Mapping[str, str], before: Mapping[str, str] | None) -> str:
    """Returns the name of a stage's run: `dpo β 500, lr 2e-05`; the stage's own without a change.

    `params` are its texts by name, `before` those of the stage's last run, None where there was none. A training's
    name is its policy's, with beta.
    """
    base, _, key = stage.partition("@")
    changed = {} if before is None else {k: v for k, v in params.items() if before.get(k, v) != v}
    if base != TRAIN:
        return ", ".join([stage, *shortened([word(k, v) for k, v in changed.items()])])
    name = f"{key} {SYMBOLS[BETA]} {params[BETA]}" if BETA in params else key
    return ", ".join([name, *shortened([word(k, v) for k, v in changed.items() if k != BETA])])


def of_pipeline(params: Mapping[str, str], before: Mapping[str, str] | None) -> str:
    """Returns the name of a pipeline's run: what changed since the one before, such as `dpo β 500` or `new: sft`.

    The first one's are its policies. `params` are all texts of params.yaml by their dotted names.
    """
    policies = members(params)
    if before is None:
        return ", ".join(policies) or "pipeline"
    known = members(before)
    lines = [f"new: {name}" for name in policies if name not in known]
    lines += [f"without {name}" for name in known if name not in policies]
    lines += [word(key, value) for key, value in params.items() if before.get(key, value) != value]
    return ", ".join(shortened(lines)) or "other data or code"


def members(params: Mapping[str, str]) -> list[str]:
    """Returns the names of the policies, in their order."""
    return list(dict.fromkeys(key.split(".")[1] for key in params if key.startswith("policies.")))


def word(key: str, value: str) -> str:
    """Returns a changed value in words: `dpo β 500`, `generate steps 20`."""
    *parts, last = key.removeprefix("policies.").removeprefix("training.").split(".")
    names = [*parts, SYMBOLS.get(last, last)]
    return f"{' '.join(names)} {value if len(value) <= LONGEST else f'{value[: LONGEST - 1]}…'}"


def shortened(lines: list[str]) -> list[str]:
    """Returns the first MOST lines, and how many more there are."""
    return lines if len(lines) <= MOST else [*lines[:MOST], f"{len(lines) - MOST} more"]


def source(stage: str | None) -> dict[str, str]:
    """Returns MLflow's tags of a run's command, user and commit; `stage` None: a pipeline's."""
    whole = "dvc repro" if dvc_above() else COMMAND
    tags = {
        "mlflow.source.name": f"{COMMAND} stage {stage}" if stage else whole,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
    }
    commit, _, changes = _commit().partition(" ")
    if commit != "none":
        tags["mlflow.source.git.commit"] = commit
    if changes:
        tags["uncommitted changes"] = "yes"
    return tags


@cache
def _commit() -> str:
    return git_commit()
