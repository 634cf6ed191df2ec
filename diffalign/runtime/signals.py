"""Notes requests to stop (SIGTERM, Ctrl-C) instead of obeying them at once; all processes of a run agree on them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class StopRequest:
    """Counts requests to stop this process; `agreed`: any process of the run was asked, and all know it."""

    asked: int = 0
    agreed: bool = False
    steps: int = 0
    """How many steps have ended in this process."""

    def listen(self) -> None:
        """Makes SIGTERM and Ctrl-C be noted only, from here on, a second one too. For the main thread."""
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles the signals: counts them."""
        self.asked += 1

    def agree(self, accelerator: "Accelerator", value: Tensor) -> float:
        """Returns a scalar on the host and learns, in the same wait for the device, whether any process was asked.

        A collective operation where there are several processes: all call it at the same step and agree.
        """
        asked = torch.full_like(value, float(self.asked > 0))
        if accelerator.num_processes > 1:
            asked = accelerator.reduce(asked, "sum")
        number, count = torch.stack([value, asked]).tolist()
        self.agreed = count > 0
        self.steps += 1
        return float(number)


@contextmanager
def noted() -> Iterator[StopRequest]:
    """Gives a request that listens while the block runs; afterwards, too, once it was asked: the process will end."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield request
    finally:
        if not request.asked:
            for number, handler in before.items():
                signal.signal(number, handler)
