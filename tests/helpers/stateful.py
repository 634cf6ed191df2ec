"""A training worker whose method has a state: a running mean of its losses, by which it multiplies them.

It kills itself in the step that the file `kill-at` names, once; with a file `forget` it restores nothing. The steps
that it begins are added to the file `steps-made`.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffalign.methods import method as methods
from diffalign.methods.kto import over_processes
from diffalign.training import loop as training


class Stateful:
    """A method with a state, around one without."""

    def __init__(self, method: methods.Method) -> None:
        self.method, self.mean = method, torch.ones(())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def batches(self, policy: Any, reference: Any, step: int) -> Iterator[Any]:
        if os.environ.get("RANK", "0") == "0":
            with open("steps-made", "a") as made:
                made.write(f"{step} ")
        if (file := Path("kill-at")).exists() and step == int(file.read_text()):
            if os.environ.get("RANK", "0") == "0":
                file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.method.batches(policy, reference, step)

    def state(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        if not Path("forget").exists():
            self.mean = state["mean"]

    def loss(self, policy: Any, reference: Any, batch: Any, log: bool) -> tuple[Any, dict[str, Any]]:
        total, logs = self.method.loss(policy, reference, batch, log)
        total = total * self.mean
        self.mean = 0.9 * self.mean + 0.1 * over_processes(total.detach().clone())
        return total, logs


def work(who: dict[str, str], spec: str) -> None:
    """Runs the worker with these variables."""
    os.environ.update(who)
    sys.argv = ["training", spec]
    load = methods.load
    methods.load = lambda settings, context: Stateful(load(settings, context))  # type: ignore[return-value]
    training.main()
