"""Reads what DVC knows: the graph (`dvc dag --dot`), the stages in dvc.yaml, and what was made (dvc.lock)."""

import graphlib
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json, sha256_bytes

DVC = [sys.executable, "-m", "dvc"]
CODE = ("diffalign/", "stages/", "code/")
"""Folders of this project's code; in a repository of `new`, of its hashes."""
CHECK = "check"
"""The stage that checks params.yaml before all others; it makes nothing that is worth a run in MLflow."""


def own_path() -> str:
    """Returns the PATH on which `python`, as dvc.yaml's commands say it, is the interpreter that runs now."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def graph() -> dict[str, list[str]]:
    """Returns each stage of the expanded graph with the stages that it needs, in an order in which they can run.

    Takes a second or so. Raises UserError with DVC's message if the graph can't be made.
    """
    done = subprocess.run([*DVC, "dag", "--dot"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc dag` can't read the pipeline; mend this and try again:\n{done.stderr.strip()}")
    return parse_dot(done.stdout)


def parse_dot(text: str) -> dict[str, list[str]]:
    """Reads a graph in DOT text as DVC writes it: `"a";` is a stage, `"a" -> "b";` says that b needs a."""
    needs: dict[str, list[str]] = {name: [] for name in re.findall(r'^\s*"([^"]+)";?\s*$', text, re.MULTILINE)}
    for first, second in re.findall(r'^\s*"([^"]+)" -> "([^"]+)";?\s*$', text, re.MULTILINE):
        needs[second].append(first)
    return {name: sorted(needs[name]) for name in graphlib.TopologicalSorter(needs).static_order()}


def stages() -> dict[str, Any]:
    """Returns the stages of dvc.yaml as they stand there, by name; those with a `foreach` once."""
    return dict(_yaml(Path("dvc.yaml"))["stages"])


def declared(name: str) -> dict[str, list[str]]:
    """Returns the `params` and `outs` that dvc.yaml gives a stage; of NAME@KEY with `${key}` filled in."""
    base, _, key = name.partition("@")
    stage = stages()[base]
    stage = stage.get("do", stage)
    return {kind: [entry.replace("${key}", key) for entry in stage.get(kind, [])] for kind in ("params", "outs")}


def check_base(base: str) -> None:
    """Raises UserError unless dvc.yaml has a stage of this name, which stands before the `@` of NAME@KEY."""
    if base not in (known := stages()):
        raise UserError(f"stage: expected one of {', '.join(sorted(known))}, got {base!r}.")


def check_key(name: str, params: dict[str, Any]) -> None:
    """Raises UserError unless NAME or NAME@KEY is a stage: a key exactly where dvc.yaml has a `foreach`.

    `params` is params.yaml, whose section the `foreach` names.
    """
    base, at, key = name.partition("@")
    over = stages()[base].get("foreach")
    if over is None:
        if at:
            raise UserError(f"stage {name}: {base} is one stage, without a name behind an @: run `stage {base}`.")
        return
    section = over.removeprefix("${").removesuffix("}")
    keys = list(lookup(params, [section]).get(section, ()))
    if key not in keys:
        found = f"none of the {section} in params.yaml, {key!r}" if key else "none"
        raise UserError(
            f"stage {name}: expected one of {', '.join(f'{base}@{k}' for k in keys) or f'{section} in params.yaml'}; "
            f"{base} is a stage for each of the {section}, and the name behind the @ is {found}."
        )


def of_policies(names: Collection[str]) -> dict[str, str]:
    """Maps those of some expanded stages that are one policy's to the policy: train@dpo to dpo."""
    each = {base for base, stage in stages().items() if stage.get("foreach") == "${policies}"}
    split = {name: name.partition("@") for name in names}
    return {name: key for name, (base, _, key) in split.items() if base in each}


def current() -> dict[str, dict[str, Any]]:
    """Returns the stages in dvc.lock that dvc.yaml and params.yaml still have, in their order; no DVC is started."""
    if not (locked := lock()):
        return {}
    params, names = _yaml(Path("params.yaml")), []
    for base, stage in stages().items():
        over = stage.get("foreach")
        section = over.removeprefix("${").removesuffix("}") if over else ""
        names += [f"{base}@{key}" for key in lookup(params, [section]).get(section) or ()] if over else [base]
    return {name: locked[name] for name in names if name in locked}


def lock() -> dict[str, dict[str, Any]]:
    """Returns the stages in dvc.lock: cmd, deps, params, outs with their checksums; empty before the first run."""
    path = Path("dvc.lock")
    return _yaml(path)["stages"] if path.exists() else {}


def check_leftovers(
    policies: Collection[str],
    rewards: Collection[str],
    reward_models: Collection[str] = (),
    rounds: Collection[str] = (),
) -> None:
    """Raises UserError where outs of policies, rewards, reward models or rounds that left params.yaml are still there.

    Evaluate and report would depend on them, and have other inputs in another clone; a round would be taken for one of
    now. DVC itself doesn't delete what left its graph.
    """
    folders = {"models/policies": policies, "images": policies, "curves": [*policies, "rewards"]}
    folders |= {"metrics/scores": rewards, "curves/rewards": reward_models, "metrics/rewards": reward_models}
    folders |= {"data/rounds": rounds, "data/samples": rounds}
    left = [
        path
        for folder, names in folders.items()
        for path in sorted(Path(folder).glob("[!.]*"))
        if path.name.removesuffix(".jsonl").removesuffix(".json") not in names
    ]
    if left:
        raise UserError(
            "Outs of policies, rewards, reward models or rounds that aren't in params.yaml (any more): score, evaluate "
            "and report read whole folders. Remove them; DVC's cache keeps them:\n"
            f"  rm -r {' '.join(shlex.quote(str(p)) for p in left)}"
        )


def _yaml(path: Path) -> Any:
    # As DVC reads it, YAML 1.2: to PyYAML, which knows 1.1, the `1e-05` that DVC writes is a string.
    return YAML(typ="safe").load(path)


def fingerprint(value: Any) -> str:
    """Returns the SHA-256 of what dvc.lock says of a stage or of all: equal inputs and outs give equal fingerprints."""
    return sha256_bytes(canonical_json(value).encode())


def checksums(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Maps path to MD5 for the deps or outs of a stage in dvc.lock."""
    return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}


def changed() -> set[str]:
    """Returns the stages whose command, dependencies, params or outs differ from dvc.lock, as DVC tells.

    One that needs such a stage isn't among them unless it differs itself. Takes a second or so, and more where large
    files are to be hashed. Raises UserError where DVC can't tell.
    """
    return set(_status())


def _status(*options: str) -> dict[str, Any]:
    done = subprocess.run([*DVC, "status", "--json", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`dvc status` can't read the pipeline; mend this and try again:\n{done.stderr.strip()}")
    return dict(json.loads(done.stdout))


def out_of_date(stage: str) -> list[str]:
    """Lists the data, outs and params that differ from dvc.lock for a stage or those before it, as `stage: path`.

    Edits of code are left out: they may change nothing, and figures are of the files that are there. Takes a second or
    so, and more where large files are to be hashed. Raises UserError where DVC can't tell.
    """
    changes = [
        (name, path)
        for name, entries in _status("--with-deps", stage).items()
        for entry in entries
        for kind in (entry.values() if isinstance(entry, dict) else [{str(entry): ""}])
        for path in (kind if isinstance(kind, dict) else {str(kind): ""})
    ]
    found = ((name, path) for name, path in changes if name != CHECK)
    return sorted(f"{name}: {path}" for name, path in found if not path.startswith(CODE))


def known() -> dict[str, str]:
    """Maps path to MD5 for what a stage that starts now may depend on: outs in dvc.lock, and this project's code."""
    found: dict[str, str] = {}
    for stage in lock().values():
        found.update(checksums(stage.get("outs", [])))
    for folder in CODE:
        files = [path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        code = {path: _md5(path.read_bytes()) for path in files}
        found |= {path.as_posix(): md5 for path, md5 in code.items()}
        for parent in {parent for path in files for parent in path.parents if parent != Path()}:
            found[parent.as_posix()] = folder_md5(
                {p.relative_to(parent): code[p] for p in files if parent in p.parents}
            )
    return found


def folder_md5(files: Mapping[Path, str]) -> str:
    """Returns the checksum that DVC gives to a folder whose files have these MD5s, by paths relative to it."""
    rows = [{"md5": md5, "relpath": path.as_posix()} for path, md5 in files.items()]
    return _md5(json.dumps(sorted(rows, key=lambda row: row["relpath"]), sort_keys=True).encode()) + ".dir"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def lookup(params: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Returns the values at dotted keys, as dvc.yaml's `params` names them; keys that aren't there are left out."""
    found = {}
    for key in keys:
        value: Any = params
        for part in key.split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        if value is not ...:
            found[key] = value
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to one level with dotted keys; lists are kept."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
