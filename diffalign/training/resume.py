"""Begins or resumes a training: the run that all processes agree on, the newest checkpoint, the environments."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from diffalign.core.errors import UserError
from diffalign.core.files import write_bytes
from diffalign.core.records import shortened
from diffalign.methods import method as methods
from diffalign.monitoring.curve import Line
from diffalign.training import checkpoints
from diffalign.training.learner import Learner, restore
from diffalign.training.spec import Spec
from diffalign.training.spec import read as read_spec

if TYPE_CHECKING:
    from accelerate import Accelerator

LOGGED_STEPS, RATE = "curve.jsonl", "rate.json"
"""Files of a run's work folder: its curve as it grows, and how fast it was."""


def agreed(spec: Spec, work: Path, accelerator: "Accelerator") -> Spec:
    """Returns the run of the first process, which all processes take part in.

    Those of several nodes may have been given different ones, or no common file system: UserError on all of them.
    """
    accelerator.wait_for_everyone()  # the first process's run is written before it gets here
    first, wrong = spec, ""
    if not accelerator.is_main_process:
        if (file := work / "spec.json").is_file():
            first = read_spec(file)
            ours, theirs = (plain_run(run) for run in (spec, first))
            other = [key for key, value in ours.items() if value != theirs[key]]
            wrong = ", ".join(f"{key} {ours[key]!r} instead of {theirs[key]!r}" for key in other)
        else:
            wrong = f"no {file}, which the first process wrote: the work folder must be on a file system of all nodes"
    count = accelerator.gather(torch.tensor([float(bool(wrong))], device=accelerator.device)).sum().item()
    if count:
        raise UserError(
            f"train {spec.name}: expected the same run in each of {accelerator.num_processes} processes, "
            f"{count:g} of them found another: {wrong or 'their messages say more'}"
        )
    return first


def plain_run(spec: Spec) -> dict[str, Any]:
    """Returns a run as plain values, without the threads, as the cores of nodes may differ, and without `compiled`.

    The first process decides that for all, by a speed that each measures a little otherwise.
    """
    return spec.model_dump(mode="json", exclude={"machine": {"threads", "compiled"}})


def resume(spec: Spec, learner: Learner, method: methods.Method, work: Path) -> tuple[int, list[dict[str, Any]]]:
    """Restores the newest good checkpoint and cuts the curve to it.

    Returns the step it was taken at, 0 without one, and the environments from the first step on, this one's the last.
    """
    found = checkpoints.newest(work / "checkpoints", spec.owner())
    step, environments = (found.step, found.environments) if found else (0, [])
    if found:
        restore(learner, method, found.tensors)
    if learner.accelerator.is_main_process:
        cut(work / LOGGED_STEPS, step)
    steps = learner.accelerator.gather(torch.tensor([step], device=learner.accelerator.device)).unique().tolist()
    if len(steps) > 1:
        raise RuntimeError(f"the processes read checkpoints of different steps {steps} in {work}")
    return step, continued(spec, step, environments, learner.accelerator)


def continued(
    spec: Spec, step: int, environments: list[dict[str, Any]], accelerator: "Accelerator"
) -> list[dict[str, Any]]:
    """Returns the environments of a run with the present one; a change is reported on stderr."""
    present = spec.machine.model_dump()
    if environments:
        before = {key: value for key, value in environments[-1].items() if key != "from_step"}
        if before == present:
            return environments
        changes = [f"{key} {old!r} -> {present.get(key)!r}" for key, old in before.items() if old != present.get(key)]
        text = "each step's batch stays the same, but the result isn't promised bit for bit"
        say(accelerator, f"train {spec.name}: from step {step} on another environment ({', '.join(changes)}): {text}")
    return [*environments, {"from_step": step, **present}]


def cut(curve: Path, step: int) -> None:
    """Leaves a curve's lines up to a step; a checkpoint of that step was saved after they were on the disk.

    A crash may have left anything after them. UserError where one of them is damaged.
    """
    lines = curve.read_bytes().splitlines(keepends=True) if curve.exists() else []
    steps = [step_of(line) for line in lines]
    count = max((number for number, found in enumerate(steps, 1) if found is not None and found <= step), default=0)
    if None in steps[:count]:
        at = steps.index(None)
        raise UserError(
            f"{curve}: line {at + 1}: expected a JSON object with a step and figures, found "
            f"{shortened(lines[at].rstrip())}: the file was damaged or edited. Remove {curve.parent} and run the same "
            "command again: the training starts anew."
        )
    write_bytes(curve, b"".join(lines[:count]))


def step_of(line: bytes) -> int | None:
    """Returns the step of a curve's line; None for one that is cut short or damaged."""
    try:
        return Line.model_validate_json(line).step if line.endswith(b"\n") else None
    except ValidationError:
        return None


def say(accelerator: "Accelerator", text: str) -> None:
    """Writes a line on stderr, from the first process."""
    if accelerator.is_main_process:
        sys.stderr.write(text + "\n")
