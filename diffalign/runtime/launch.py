"""Starts the worker processes of a training or a measurement on this machine, and waits for them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from diffalign.core.errors import STOPPED, Outage, Stopped, UserError
from diffalign.core.home import LIBRARY, ROOT
from diffalign.runtime import external
from diffalign.runtime.environment import threads
from diffalign.runtime.processes import bound
from diffalign.runtime.signals import StopRequest, noted

POLL = 0.05
"""Seconds between looks at the workers."""
LEAVE = 30.0
"""Seconds from one worker's end on request to the end of all: each exits after the checkpoint is written."""
ON_REQUEST = (-signal.SIGTERM, -signal.SIGINT)
"""Exit codes of a worker stopped before it handles signals; one that saved its checkpoint exits with STOPPED."""
KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "XDG_*"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_*", "VIRTUAL_ENV", "CONDA_*", "PYTHON*", "COVERAGE_*", "DO_NOT_TRACK"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "MALLOC_*"),
    *("CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "BNB_*"),
    *("PYTORCH_*", "TORCH_*", "TORCHINDUCTOR_*", "TRITON_*", "HF_*", "TRANSFORMERS_*", "TOKENIZERS_*", "DIFFUSERS_*"),
    "DIFFALIGN_*",
)
"""The variables of this process's environment that a worker gets: what finds libraries, and what tunes the machine.

All others are left out: a launcher's (RANK, WORLD_SIZE, SLURM_*, OMPI_*) and accelerate's would change the training.
"""


def launch(module: str, arguments: list[str], processes: int, error_file: Path, keep: int) -> None:
    """Runs `python -m module` in `processes` processes of this machine, one a rank, and waits for them.

    Where an external launcher's processes are joined, this process is one of them and runs its own rank's only.

    The workers end with this process, however it ends, and inherit the descriptor `keep`, a lock's, which is held as
    long as one of them lives. Several meet at a store in this process. A SIGTERM or Ctrl-C that comes meanwhile goes
    to all of them as SIGTERM, and they are waited for. Raises Stopped where one of them ended on such a request. A
    worker that writes `error_file`, or exits with 2, had a user's error: it is raised here as UserError, as Outage
    where a worker exited with 75. Other failures raise RuntimeError; their traceback is on stderr.
    """
    error_file.unlink(missing_ok=True)
    command = bound([sys.executable, "-m", module, *arguments])
    store = None
    if place := external.place():
        identities = [place.variables()]
    elif processes > 1:
        store = meeting_point()
        identities = [identity(rank, processes, store) for rank in range(processes)]
    else:
        identities = [{}]
    common = environment(os.environ, threads(len(identities) if place is None else place.local_processes))
    started: list[subprocess.Popen[bytes]] = []
    with noted() as request:
        try:
            for own in identities:
                started.append(subprocess.Popen(command, env=common | own, pass_fds=[keep]))
            codes = wait(started, request)
        finally:
            end(started)
    if error_file.exists():
        raise (Outage if STOPPED in codes else UserError)(error_file.read_text())
    if 2 in codes:
        raise UserError(f"{module} couldn't go on; its message is above")
    if STOPPED in codes:
        raise Stopped("ended on request; what was done is saved, and the same command goes on from there")
    if any(code in ON_REQUEST for code in codes):
        raise Stopped(
            "ended on request before it could save. What an earlier attempt saved is kept: the same command goes on "
            "from there, or from the start"
        )
    if any(codes):
        raise RuntimeError(f"{module} failed with exit codes {codes} of its processes; their messages are above")


def environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """Returns a worker's environment but for its rank: what is KEPT of `inherited`, its threads, our code's folder."""
    kept = {name: text for name, text in inherited.items() if any(fnmatchcase(name, pattern) for pattern in KEPT)}
    path = os.pathsep.join(filter(None, [*dict.fromkeys((str(ROOT), str(LIBRARY))), inherited.get("PYTHONPATH")]))
    return kept | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def meeting_point() -> TCPStore:
    """Returns a store in this process at which distributed processes of this machine meet, on loopback only.

    PyTorch by itself would open its port on all interfaces; here it gets a socket that is bound already.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(socket.SOMAXCONN)
    port = listener.getsockname()[1]
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def identity(rank: int, processes: int, store: TCPStore) -> dict[str, str]:
    """Returns the variables by which PyTorch's `env://` tells one of some processes its rank and where they meet."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # as under torchrun: the store is there, no rank has to host it
        "GLOO_SOCKET_IFNAME": loopback,  # else the ranks listen at the address that the machine's name has
        "NCCL_SOCKET_IFNAME": loopback,
    }


def wait(started: Sequence["subprocess.Popen[bytes]"], request: StopRequest) -> list[int]:
    """Returns the exit codes of all workers once they ended. Passes requests to stop on; ends all when one failed.

    Where one ended on request, the others have LEAVE seconds: they may wait for it on their GPUs, in vain.
    """
    passed, stopped = 0, None
    while None in (codes := [worker.poll() for worker in started]):
        if request.asked > passed:
            passed = request.asked
            for worker in started:
                worker.terminate()
        if any(code not in (None, 0, STOPPED) for code in codes):
            end(started)  # the others would wait for it
        if STOPPED in codes:
            stopped = stopped or time.monotonic()
            if time.monotonic() > stopped + LEAVE:
                end(started)
        time.sleep(POLL)
    return [worker.returncode for worker in started]


def end(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Kills the workers that are still there."""
    for worker in started:
        worker.kill()
    for worker in started:
        worker.wait()
