"""Starts a training's workers, here or as an external launcher's, and notes what they measured."""

import json
import shutil
from pathlib import Path

import torch

from diffalign.core.files import lock, write_text
from diffalign.core.publishing import publish
from diffalign.runtime import environment, external, timings
from diffalign.runtime.launch import launch
from diffalign.training import checkpoints
from diffalign.training.curve_file import LOGGED_STEPS, show_live
from diffalign.training.resume import RATE
from diffalign.training.spec import Machine, Spec

WORKER = "diffalign.training.loop"


def this_machine() -> Machine:
    """Returns what the environment says of where and how to train; `compiled` only where it's asked for."""
    place, processes = external.place(), environment.world_size()
    return Machine(
        device=environment.default_device(),
        gpu=environment.gpu(),
        processes=processes,
        threads=environment.threads(place.local_processes if place else processes),
        precision=environment.precision(),
        parallel=environment.parallel(),
        compiled=bool(environment.compile_choice()),
        torch=torch.__version__,
    )


def train(spec: Spec, work: Path, held: int) -> None:
    """Runs the workers of a run in its work folder, whose lock is `held`, to their end."""
    spec.write(work / "spec.json")
    show_live(work, f"train@{spec.name}")
    launch(WORKER, [str(work / "spec.json")], spec.machine.processes, work / "error.txt", held)


def finish(spec: Spec, work: Path, out: Path, curve: Path, resolution: int) -> None:
    """Publishes what a finished run left in its work folder: the policy, its curve, how fast it was; removes the rest.

    `resolution` of its images, in pixels a side.
    """
    publish(work / "out", out)
    write_text(curve, (work / LOGGED_STEPS).read_text())
    record_rate(spec, resolution, work / RATE)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)  # first: none may outlive the curve that leads to it
    shutil.rmtree(work)


def join(spec: Spec, work: Path, rank: int) -> None:
    """Trains as a later process of an external launcher, maybe on another node; the first one publishes the policy."""
    own = work.with_name(f"{work.name}-rank-{rank}")
    own.mkdir(parents=True, exist_ok=True)
    with lock(own) as held:
        spec.write(own / "spec.json")
        launch(WORKER, [str(own / "spec.json"), str(work)], spec.machine.processes, own / "error.txt", held)
    shutil.rmtree(own)


def compiled_before(work: Path) -> bool | None:
    """Tells whether the attempt that a run goes on from compiled its networks; None where there is none.

    Going on otherwise would round otherwise.
    """
    for step in reversed(checkpoints.steps(work / "checkpoints")):
        try:
            meta = json.loads((work / "checkpoints" / f"step-{step:08d}" / checkpoints.META).read_text())
            return bool(meta["content"]["environments"][-1]["compiled"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue  # a broken one, which `checkpoints.newest` reports
    return None


def record_rate(spec: Spec, resolution: int, path: Path) -> None:
    """Notes how fast a run trained, for the next `plan`; nothing where one step was left at most, which warms up."""
    rate = json.loads(path.read_text())
    if rate["steps"] > 0:
        about = {
            "family": spec.family,
            "resolution": resolution,
            "policy": spec.policy.model_dump(mode="json"),
            "machine": spec.machine.model_dump(),
            "log_every": spec.runtime.log_every,
        }
        pairs_per_second = rate["steps"] * spec.policy.batch_size / rate["seconds"]
        timings.record_rate(spec.name, pairs_per_second, rate["waited"], rate["peak_bytes"], about)
