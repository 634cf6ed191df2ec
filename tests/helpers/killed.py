"""A training worker that kills itself in the step that the file `kill-at` names, once.

The steps that it begins are added to the file `steps-made`.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffalign.methods import method as methods
from diffalign.training import loop as training


class Mortal:
    """A method that is killed, around one that isn't."""

    def __init__(self, method: methods.Method) -> None:
        self.method = method

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


def work(who: dict[str, str], spec: str, around: type[Mortal] = Mortal) -> None:
    """Runs the worker with these variables."""
    os.environ.update(who)
    sys.argv = ["training", spec]
    load = methods.load
    methods.load = lambda settings, context: around(load(settings, context))  # type: ignore[assignment,return-value]
    training.main()
