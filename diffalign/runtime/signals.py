"""The wish to end (SIGTERM, Ctrl-C): noted instead of obeyed at once, and agreed on by all processes of a run."""

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
    """How often this process was asked to end, and whether any process of the run was, as all of them know."""

    asked: int = 0
    agreed: bool = False

    def listen(self) -> None:
        """From here on SIGTERM and Ctrl-C are only noted, a second one too. For the main thread."""
        for number in SIGNALS:
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        self.asked += 1

    def agree(self, accelerator: "Accelerator", value: Tensor) -> float:
        """A scalar on the host; with it, at the cost of one wait for the device, comes whether any process was asked.

        A collective operation where there are several processes: all call it at the same step and agree.
        """
        asked = torch.full_like(value, float(self.asked > 0))
        if accelerator.num_processes > 1:
            asked = accelerator.reduce(asked, "sum")
        number, count = torch.stack([value, asked]).tolist()
        self.agreed = count > 0
        return float(number)


@contextmanager
def noted() -> Iterator[StopRequest]:
    """A request that listens while the block runs; afterwards, too, once it was asked: the process is about to end."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield request
    finally:
        if not request.asked:
            for number, handler in before.items():
                signal.signal(number, handler)
