"""Ends a process that is asked to stop while it compiles: that takes minutes, in which no step ends.

Inductor compiles in processes of its own. A signal to the whole group would end those too, and the training would fail,
or wait for them in vain: they start with the signals blocked.
"""

import os
import signal
import socket
import sys
import threading
import time

import psutil
import torch._dynamo.callback as dynamo

from diffalign.core.errors import STOPPED
from diffalign.runtime.signals import SIGNALS, StopRequest

GRACE = 2.0
"""Seconds from a request on that are left to reach the end of a step."""
POLL = 0.1
"""Seconds between looks at whether it compiles, after that."""


class CompileStop:
    """Ends this process GRACE seconds after a request to stop, if it compiles then, or hasn't ended a first step.

    Nothing is lost of a first step. Later on, what has been done since the newest checkpoint is, which is rare: shapes
    are few, and the first steps have met most of them.
    """

    def __init__(self, request: StopRequest, told: str = "") -> None:
        self.request, self.told, self.compiling = request, told, False
        self.written, self.read = socket.socketpair()

    def start(self) -> None:
        """Listens to the signals, watches for them in a thread, and blocks them for children. For the main thread."""
        self.request.listen()
        self.written.setblocking(False)
        signal.set_wakeup_fd(self.written.fileno(), warn_on_full_buffer=False)  # at once, whatever the main thread does
        dynamo.on_compile_start(lambda _: setattr(self, "compiling", True))
        dynamo.on_compile_end(lambda _: setattr(self, "compiling", False))
        threading.Thread(target=self.watch, name="stop while compiling", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # children inherit it; the thread started without

    def watch(self) -> None:
        """Waits for a signal, and ends the process where no step's end takes note of it."""
        self.read.recv(1)
        time.sleep(GRACE)
        while not self.request.agreed:
            if self.compiling or not self.request.steps:
                end(self.told)
            time.sleep(POLL)


def end(told: str) -> None:
    """Kills this process's children, and ends it with the exit code of a run that was stopped."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    sys.stderr.write(told)
    sys.stderr.flush()
    os._exit(STOPPED)
