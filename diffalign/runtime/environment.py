"""What comes from the environment, not from the params: the device, how many processes; and the distributed launch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from diffalign.core.errors import STOPPED, Stopped, UserError
from diffalign.runtime.processes import bound
from diffalign.runtime.signals import StopRequest, noted

POLL = 0.05
"""Seconds between looks at the workers."""
ON_REQUEST = (STOPPED, -signal.SIGTERM, -signal.SIGINT)
"""How a worker ends that was asked to: with its checkpoint saved, or by the signal before its first step."""


def default_device() -> str:
    """The device the environment asks for, cpu or cuda: DIFFALIGN_DEVICE, else cuda where there is one."""
    text = os.environ.get("DIFFALIGN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if text not in ("cpu", "cuda"):
        raise UserError(f"DIFFALIGN_DEVICE: expected cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise UserError("DIFFALIGN_DEVICE: expected a CUDA GPU that PyTorch can use, found none; set it to cpu")
    return text


def world_size() -> int:
    """How many training processes the environment asks for: DIFFALIGN_PROCESSES, else one a GPU, at least one."""
    text = os.environ.get("DIFFALIGN_PROCESSES")
    if text is None:
        return max(torch.cuda.device_count(), 1) if default_device() == "cuda" else 1
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"DIFFALIGN_PROCESSES: expected a whole number from 1, got {text!r}")
    return int(text)


def threads(processes: int) -> int:
    """CPU threads of each of some processes: what OMP_NUM_THREADS says, else their share of the machine's."""
    count = torch.get_num_threads()  # PyTorch has read the variable, too
    return count if os.environ.get("OMP_NUM_THREADS") else max(count // processes, 1)


def precision() -> str:
    """The precision of training's forward passes, fp32 or bf16: DIFFALIGN_PRECISION, else bf16 on a GPU."""
    text = os.environ.get("DIFFALIGN_PRECISION") or ("fp32" if default_device() == "cpu" else "bf16")
    if text not in ("fp32", "bf16"):
        raise UserError(f"DIFFALIGN_PRECISION: expected fp32 or bf16, got {text!r}")
    return text


def parallel() -> str:
    """How training's networks are spread over its processes: DIFFALIGN_PARALLEL, else ddp."""
    text = os.environ.get("DIFFALIGN_PARALLEL") or "ddp"
    if text not in ("ddp", "fsdp"):
        raise UserError(f"DIFFALIGN_PARALLEL: expected ddp or fsdp, got {text!r}")
    return text


def gpu() -> str | None:
    """The GPU's name, where that is what computes: another one rounds otherwise."""
    return torch.cuda.get_device_name() if default_device() == "cuda" else None


def compiled() -> bool:
    """Whether training compiles its networks' blocks: DIFFALIGN_COMPILE, 0 or 1, else on a GPU."""
    text = os.environ.get("DIFFALIGN_COMPILE") or ("0" if default_device() == "cpu" else "1")
    if text not in ("0", "1"):
        raise UserError(f"DIFFALIGN_COMPILE: expected 0 or 1, got {text!r}")
    return text == "1"


def launch(module: str, arguments: list[str], processes: int, error_file: Path, keep: int) -> None:
    """Runs `python -m module` in `processes` processes of this machine, one a rank, and waits.

    They end with this process, however it ends, and inherit the descriptor `keep`, a lock's, which is held as long as
    one of them lives. Several meet at a store in this process. A SIGTERM or Ctrl-C that comes meanwhile goes to all of
    them as SIGTERM, and they are waited for. Raises Stopped where one of them ended on such a request. A worker that
    writes `error_file`, or exits with 2, had a user's error: it is raised here as UserError. Other failures raise
    RuntimeError; their traceback is on stderr.
    """
    error_file.unlink(missing_ok=True)
    command = bound([sys.executable, "-m", module, *arguments])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads(processes))}
    store = meeting_point() if processes > 1 else None
    started: list[subprocess.Popen[bytes]] = []
    with noted() as request:
        try:
            for rank in range(processes):
                who = identity(rank, processes, store) if store else {}
                started.append(subprocess.Popen(command, env=environment | who, pass_fds=[keep]))
            codes = wait(started, request)
        finally:
            end(started)
    if error_file.exists():
        raise UserError(error_file.read_text())
    if 2 in codes:
        raise UserError(f"{module} couldn't go on; its message is above")
    if any(code in ON_REQUEST for code in codes):
        raise Stopped("ended on request; what was done is saved, and the same command goes on from there")
    if any(codes):
        raise RuntimeError(f"{module} failed with exit codes {codes} of its processes; their messages are above")


def meeting_point() -> TCPStore:
    """A store in this process at which distributed processes meet; PyTorch opens its port on all interfaces."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def identity(rank: int, processes: int, store: TCPStore) -> dict[str, str]:
    """The variables by which PyTorch's `env://` tells one of some processes who it is and where they meet."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # as under torchrun: the store is there, no rank has to host it
    }


def wait(started: Sequence["subprocess.Popen[bytes]"], request: StopRequest) -> list[int]:
    """Waits for all workers; their exit codes. Passes requests to stop on, and ends all when one has failed."""
    passed = 0
    while None in (codes := [worker.poll() for worker in started]):
        if request.asked > passed:
            passed = request.asked
            for worker in started:
                worker.terminate()
        if any(code not in (None, 0, STOPPED) for code in codes):
            end(started)  # the others would wait for it
        time.sleep(POLL)
    return [worker.returncode for worker in started]


def end(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Kills the workers that are still there."""
    for worker in started:
        worker.kill()
    for worker in started:
        worker.wait()
