"""A worker of tests/runtime/test_parallel.py, one of two: trains in DDP and FSDP2, and leaves the results in OUT.

`python -m tests.helpers.spread SPECS OUT` under torchrun; SPECS is a folder with NAME/spec.json of each run.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffalign.methods import method as methods
from diffalign.methods.pairwise import PairMethod
from diffalign.runtime import devices
from diffalign.runtime.parallel import whole
from diffalign.training.dataset import Sources
from diffalign.training.learner import (
    Learner,
    as_published,
    build,
    make_accelerator,
    published_weights,
)
from diffalign.training.resume import restore, state_tensors
from diffalign.training.spec import Spec, read
from diffalign.training.step import optimizer_step

Logs = list[dict[str, float]]
NO_SOURCE: Any = None
"""Of a method that is asked for its state alone."""


def steps(learner: Learner, spec: Spec, start: int, end: int, poisoned: int = -1) -> Logs:
    """Some optimizer steps; in step `poisoned` the loss of the last process is no number."""
    method = methods.load(spec.policy, Sources(spec, learner))
    loss = method.loss
    logs = []

    def bad(*args: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, numbers = loss(*args)
        return total * float("nan"), numbers

    for step in range(start, end):
        if step == poisoned and learner.accelerator.is_last_process:
            object.__setattr__(method, "loss", bad)
        logs.append(optimizer_step(learner, method, spec.policy, step, logging=True))
        object.__setattr__(method, "loss", loss)
    return logs


def accelerator(precision: str = "fp32") -> Any:
    AcceleratorState._reset_state(reset_partial_state=False)
    return make_accelerator("cpu", dist.get_world_size() if dist.is_initialized() else 2, precision)


def kept(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state_tensors(learner, PairMethod(NO_SOURCE)).items()}


class Exchanges(TorchDispatchMode):
    """Counts what the processes send each other, by collective operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def reductions(learner: Learner, spec: Spec, micro_batch_size: int) -> int:
    """How often tensors are reduced over the processes in an optimizer step: gradients, and its logs' sums.

    Of a learner that has made steps: after its first backward DDP puts gradients into other buckets.
    """
    policy = spec.policy.model_copy(update={"micro_batch_size": micro_batch_size})
    with Exchanges() as seen:
        steps(learner, spec.model_copy(update={"policy": policy}), 1, 2)
    return seen.counts["c10d::allreduce_"] + seen.counts["c10d::_reduce_scatter_base_"]


def everything(specs: dict[str, Spec], out: Path) -> dict[str, Any]:
    devices.set_up(torch.device("cpu"), "fp32")
    logs: dict[str, Any] = {}
    results: dict[str, dict[str, torch.Tensor]] = {}

    def run(name: str, spec: Spec, strategy: str, precision: str = "fp32", end: int = 3, poisoned: int = -1) -> Learner:
        learner = build(spec, accelerator(precision), strategy)
        logs[name] = steps(learner, spec, 0, end, poisoned)
        results[name] = kept(learner)
        if name.startswith(("dpo", "lora", "sft")):
            look(name, learner)
        return learner

    def look(name: str, learner: Learner) -> None:
        """Notes what is published, and whether a probe sees it and training then goes on with its own."""
        published = {key: value.detach().clone() for key, value in published_weights(learner).items()}
        with as_published(learner):
            shown = whole(dict(learner.trainable), learner.accelerator.is_main_process)
            seen = all(torch.equal(shown[key], value) for key, value in published.items())
        after = kept(learner)
        back = all(torch.equal(after[key], value) for key, value in results[name].items())
        logs.setdefault("probes see what is published", []).append(seen and back)
        results[name] |= {f"published.{key}": value for key, value in published.items()}

    for name, spec in specs.items():
        for strategy in ("ddp", "fsdp"):
            learner = run(f"{name}-{strategy}", spec, strategy)
            if name == "sft":
                logs[f"reductions-{strategy}"] = [reductions(learner, spec, size) for size in (1, 4)]
    spec = specs["dpo"]
    learner = run("poisoned", spec, "fsdp", poisoned=1)
    logs["skips"] = [learner.skips.total, learner.skips.in_a_row]
    logs["sharded"] = all(isinstance(p, DTensor) for p in learner.trainable.values())
    state = [v for s in learner.optimizer.state.values() for k, v in s.items() if k != "step"]
    logs["moments sharded"] = bool(state) and all(isinstance(value, DTensor) for value in state)
    some = learner.trainable["conv_in.weight"]
    logs["local"], logs["global"] = some.to_local().numel(), some.numel()
    for strategy in ("ddp", "fsdp"):
        run(f"bf16-{strategy}", spec, strategy, "bf16", end=1)

    # A step, a checkpoint, and the rest by a fresh learner of either kind.
    first = build(spec, accelerator(), "fsdp")
    steps(first, spec, 0, 1)
    results["first-fsdp"] = kept(first)
    holder: list[Any] = [results["first-fsdp"]]
    dist.broadcast_object_list(holder)
    for strategy in ("ddp", "fsdp"):
        fresh = build(spec, accelerator(), strategy)
        restore(fresh, PairMethod(NO_SOURCE), holder[0])
        steps(fresh, spec, 1, 3)
        results[f"resumed-{strategy}"] = kept(fresh)
    if first.accelerator.is_main_process:
        for name, tensors in results.items():
            save_file({key: value.clone() for key, value in tensors.items()}, out / f"{name}.safetensors")
    return logs


if __name__ == "__main__":
    listed, folder = map(Path, sys.argv[1:])
    found = everything({path.parent.name: read(path) for path in sorted(listed.glob("*/spec.json"))}, folder)
    if dist.get_rank() == 0:
        (folder / "logs.json").write_text(json.dumps(found))
    dist.destroy_process_group()
