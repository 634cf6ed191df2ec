"""A training worker whose method has a state: a running mean of its losses, by which it multiplies them.

It's killed as `killed` says; with a file `forget` it restores nothing.
"""

from pathlib import Path
from typing import Any

import torch

from diffalign.methods import method as methods
from diffalign.methods.kto import over_processes
from tests.helpers import killed


class Stateful(killed.Mortal):
    """A method with a state, around one without."""

    def __init__(self, method: methods.Method) -> None:
        super().__init__(method)
        self.mean = torch.ones(())

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
    killed.work(who, spec, Stateful)
