"""Checkpoints of training: safetensors and JSON with checksums, atomic, the newest good one is used.

Random numbers and order are functions of the step, so a checkpoint holds the step, the weights, the optimizer's
moments, and a method's own state.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json, disk_errors, fsync_folder, sha256_bytes, sha256_file, write_json
from diffalign.runtime.parallel import share

log = logging.getLogger(__name__)
STATE, META = "state.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """Holds the state after `step` steps of one piece of work."""

    step: int
    owner: str
    """Names the work: its tensors are no other's."""
    environments: list[dict[str, Any]]
    """What it was computed on: each environment with the step it took over at, `from_step`."""
    tensors: dict[str, Tensor]


def steps(folder: Path) -> list[int]:
    """Lists the steps of the checkpoints in a folder, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Writes `folder/step-XXXXXXXX` with a rename at the end; after it the newest `keep` stay, and none of later steps.

    Those of later steps are what an attempt left whose end was broken. Raises UserError on a full disk; what was there
    is untouched then, and nothing half written stays.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    for unfinished in folder.glob(".step-*.tmp"):  # a killed process's
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with disk_errors(target):
            write(temporary, checkpoint)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
            fsync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    there = sorted(path for path in folder.glob("step-*") if path.is_dir())
    last = there.index(target) + 1
    for other in there[: max(last - keep, 0)] + there[last:]:
        shutil.rmtree(other)


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the two files of a checkpoint; they are on the disk when this returns."""
    folder.mkdir(parents=True)
    file = folder / STATE
    save_file(apart(checkpoint.tensors), file)
    with open(file, "rb") as written:
        os.fsync(written.fileno())
    meta = {
        "step": checkpoint.step,
        "owner": checkpoint.owner,
        "environments": checkpoint.environments,
        "sha256": sha256_file(file),
    }
    write_json(folder / META, {"content": meta, "checksum": checksum(meta)})


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the CPU, none sharing its memory with another, as safetensors requires."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        alone = tensor.detach().contiguous().cpu()
        if alone.untyped_storage().data_ptr() in seen:  # bitsandbytes' table of codes is one for all parameters
            alone = alone.clone()
        seen.add(alone.untyped_storage().data_ptr())
        found[name] = alone
    return found


def newest(folder: Path, owner: str) -> Checkpoint | None:
    """Returns the newest whole checkpoint of the work that `owner` names; None if there is none.

    A broken checkpoint is reported in the log and passed over. Raises UserError for another work's.
    """
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        try:
            checkpoint = read(path)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            log.warning("checkpoint %s is broken and passed over: %s", path, error)
            continue
        if checkpoint.owner != owner:
            raise UserError(
                f"checkpoint {path}: expected one of {owner}, got one of {checkpoint.owner}, which would go on from "
                "other weights. Remove that folder and run the same command again."
            )
        return checkpoint
    if found:
        log.warning("no checkpoint in %s is whole: training starts anew, from its first step", folder)
    return None


def read(path: Path) -> Checkpoint:
    """Reads one checkpoint; raises one of the errors that `newest` knows where anything isn't as it was written."""
    written = json.loads((path / META).read_text())
    meta = written["content"]
    if checksum(meta) != written["checksum"]:
        raise ValueError(f"the checksum of {META} doesn't hold")
    if f"step-{meta['step']:08d}" != path.name:
        raise ValueError(f"it is of step {meta['step']}")
    if sha256_file(path / STATE) != meta["sha256"]:
        raise ValueError(f"the checksum of {STATE} doesn't hold")
    return Checkpoint(meta["step"], meta["owner"], meta["environments"], load_file(path / STATE))


def checksum(meta: Any) -> str:
    """Returns the SHA-256 of a checkpoint's metadata."""
    return sha256_bytes(canonical_json(meta).encode())


def check_shapes(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises UserError unless a checkpoint has a tensor of the same shape for each of those expected."""
    for name, tensor in expected.items():
        got = tuple(tensors[name].shape) if name in tensors else "none"
        if got != tuple(tensor.shape):
            raise UserError(
                f"the checkpoint doesn't fit the model: for {name} expected shape {tuple(tensor.shape)}, got {got}. "
                "Remove the work folder of the policy in runs/ and run the same command again: it starts anew."
            )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns an optimizer's state as flat tensors named `optimizer.<parameter index>.<name>`.

    Counters are int64 scalars. Read from the state itself: in `state_dict`, bitsandbytes hides its tensors in another
    dictionary.
    """
    return {
        f"optimizer.{index}.{name}": as_tensor(value)
        for index, parameter in enumerate(parameters_of(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Returns the parameters that an optimizer trains, in its own order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def as_tensor(value: Tensor | int) -> Tensor:
    """Returns a tensor as it is, a whole number as an int64 scalar; TypeError for what a file wouldn't keep exactly."""
    if not isinstance(value, Tensor | int):
        raise TypeError(f"an optimizer's state: expected tensors and whole numbers, got {value!r}")
    return torch.as_tensor(value)


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores what `optimizer_tensors` gave, this process's share of it; the parameter groups stay as they are."""
    parameters = parameters_of(optimizer)
    optimizer.state.clear()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            parameter = parameters[int(index)]
            counter = value.dtype == torch.int64 and not value.dim()
            optimizer.state[parameter][name] = int(value) if counter else share(value, parameter)
