"""A training worker that multiplies a rank's gradients: DIFFALIGN_TEST_POISON="STEP RANK FACTOR, ...", steps from 1."""

import os
from collections.abc import Iterator
from typing import Any

from diffalign.methods import method as methods
from diffalign.training import loop as training


class Poisoned:
    """A method whose loss is multiplied at the steps and ranks that DIFFALIGN_TEST_POISON names."""

    def __init__(self, method: methods.Method) -> None:
        doses = [dose.split() for dose in os.environ["DIFFALIGN_TEST_POISON"].split(",")]
        mine = os.environ.get("RANK", "0")
        self.method, self.now = method, -1
        self.factors = {int(step) - 1: float(factor) for step, rank, factor in doses if rank == mine}

    def batches(self, policy: Any, reference: Any, step: int) -> Iterator[Any]:
        self.now = step
        return self.method.batches(policy, reference, step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, policy: Any, reference: Any, batch: Any, log: bool) -> tuple[Any, dict[str, Any]]:
        total, logs = self.method.loss(policy, reference, batch, log)
        return total * self.factors.get(self.now, 1.0), logs


if __name__ == "__main__":
    load = methods.load
    methods.load = lambda settings, context: Poisoned(load(settings, context))
    training.main()
