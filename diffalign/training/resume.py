"""Begins or resumes a training: the run that all processes agree on, the newest checkpoint, the environments."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffalign.core.errors import UserError
from diffalign.methods import method as methods
from diffalign.training import checkpoints
from diffalign.training.curve_file import LOGGED_STEPS, cut
from diffalign.training.learner import Learner, restore
from diffalign.training.spec import Spec
from diffalign.training.spec import read as read_spec

if TYPE_CHECKING:
    from accelerate import Accelerator

RATE = "rate.json"
"""The file of a run's work folder that says how fast it was."""


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


def say(accelerator: "Accelerator", text: str) -> None:
    """Writes a line on stderr, from the first process."""
    if accelerator.is_main_process:
        sys.stderr.write(text + "\n")
