"""Begins or resumes a training: the run that all processes agree on, what a checkpoint holds, the environments."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.methods import method as methods
from diffalign.runtime.parallel import share, whole
from diffalign.training import checkpoints
from diffalign.training.curve_file import LOGGED_STEPS, cut
from diffalign.training.learner import Learner, Skips
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


def state_tensors(learner: Learner, method: methods.Method) -> dict[str, Tensor]:
    """Returns all that changes in training, by name: weights, their average, the optimizer's moments, skips, the
    method's own state.

    They are in full on the first process, which is to save them, however the learner is spread: all must call this.
    """
    own = {f"method.{name}": tensor for name, tensor in method.state().items()}
    skips = {"skips": torch.tensor([learner.skips.total, learner.skips.in_a_row])}
    tensors = shared_tensors(learner) | skips | own | checkpoints.optimizer_tensors(learner.optimizer)
    return whole(tensors, learner.accelerator.is_main_process)


def shared_tensors(learner: Learner) -> dict[str, Tensor]:
    """Returns the weights, their average and old ones by name, as in a checkpoint; this process's shares of them."""
    averages = learner.average.averages if learner.average else {}
    old = learner.old.copies if learner.old else {}
    weights: dict[str, Tensor] = {f"weights.{name}": p for name, p in learner.trainable.items()}
    weights |= {f"average.{name}": average for name, average in averages.items()}
    return weights | {f"old.{name}": copy for name, copy in old.items()}


@torch.no_grad()
def restore(learner: Learner, method: methods.Method, tensors: dict[str, Tensor]) -> None:
    """Puts back what `state_tensors` gave. Raises UserError where the weights aren't this model's."""
    there = shared_tensors(learner)
    checkpoints.check_shapes(tensors, there)
    for name, tensor in there.items():
        tensor.copy_(share(tensors[name], tensor))
    checkpoints.load_optimizer(learner.optimizer, tensors)
    learner.skips = Skips(*tensors["skips"].tolist())
    method.restore({n.removeprefix("method."): tensor for n, tensor in tensors.items() if n.startswith("method.")})
