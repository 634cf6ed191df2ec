"""Training workers forked from a process that has imported what they need: real processes, of which a kill is cheap."""

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from diffalign.config.params import Params
from diffalign.core.files import hash_folder, write_json
from diffalign.runtime import launch
from diffalign.training import loop as training
from diffalign.training.learner import Spec

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["diffalign.training.loop", "diffalign.models.sd15", "accelerate", "diffusers.models.unets.unet_2d_condition"]
)


def prepare(work: Path, values: Params, policy: str, processes: int) -> None:
    """Writes the spec of a run as the train stage does."""
    machine = {"device": "cpu", "processes": processes, "threads": 1, "precision": "fp32", "torch": torch.__version__}
    machine |= {"parallel": "ddp", "compiled": False}
    chosen = values.policies[policy].model_dump() | {"init_fingerprint": hash_folder(Path("model/unet"))}
    pairs = values.pairs.model_dump()
    spec = Spec(policy, "sd15", "model", chosen, pairs, "data/comparisons", "data/shards", machine)
    write_json(work / "spec.json", vars(spec))


def start(work: Path, processes: int) -> list[BaseProcess]:
    """Starts the workers on a spec that is there."""
    store = launch.meeting_point() if processes > 1 else None
    started: list[BaseProcess] = []
    for rank in range(processes):
        who = launch.identity(rank, processes, store) if store else {}
        started.append(CONTEXT.Process(target=_worker, args=(who, str(work / "spec.json"))))
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
