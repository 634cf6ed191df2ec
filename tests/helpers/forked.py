"""Training workers forked from a process that has imported what they need: real processes, of which a kill is cheap."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.runtime import launch
from diffalign.training import loop as training
from stages import ingest, precompute
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["diffalign.training.loop", "diffalign.models.sd15", "accelerate", "diffusers.models.unets.unet_2d_condition"]
)


def project(folder: Path, policies: dict[str, Any], **changes: dict[str, Any]) -> Iterator[Params]:
    """A project with shards in a folder, in which workers train while a test file has it; changes as `make_params`'."""
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    made = make_params(folder, policies, **changes)
    ingest.run(made)
    precompute.run(made)
    yield made
    os.chdir(before)


def prepare(work: Path, values: Params, policy: str, processes: int, **changes: Any) -> None:
    """Writes the spec of a run as the train stage does, with changes to the policy's settings."""
    machine = specs.MACHINE.model_copy(update={"processes": processes})
    specs.write(work, specs.spec(values, policy, machine, **changes))


def start(work: Path, processes: int, worker: Callable[[dict[str, str], str], None] | None = None) -> list[BaseProcess]:
    """Starts the workers on a spec that is there; `worker` runs one with its variables, where it isn't the usual."""
    store = launch.meeting_point() if processes > 1 else None
    started: list[BaseProcess] = []
    for rank in range(processes):
        who = launch.identity(rank, processes, store) if store else {}
        started.append(CONTEXT.Process(target=worker or _worker, args=(who, str(work / "spec.json"))))
        started[-1].start()
    STORES[:] = [store]  # until the next launch
    return started


STORES: list[object] = []


def _worker(who: dict[str, str], spec: str) -> None:
    os.environ.update(who)
    sys.argv = ["training", spec]
    training.main()


def finish(started: list[BaseProcess], seconds: float = 240) -> list[int | None]:
    """Waits for the workers; their exit codes."""
    end = time.monotonic() + seconds
    for process in started:
        process.join(max(end - time.monotonic(), 0))
    return [process.exitcode for process in started]
