"""Reads what the environment decides, not params.yaml: the device, the number of processes, the precision."""

import os

import torch

from diffalign.core.errors import UserError
from diffalign.runtime import external, switches


def default_device() -> str:
    """Returns the device that the environment asks for, cpu or cuda: DIFFALIGN_DEVICE, else cuda where there is one."""
    chosen: str = switches.read("DIFFALIGN_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen == "cuda" and not torch.cuda.is_available():
        raise UserError("DIFFALIGN_DEVICE: expected a CUDA GPU that PyTorch can use, found none; set it to cpu")
    return chosen


def world_size() -> int:
    """Returns the number of training processes: an external launcher's where they are joined, else
    DIFFALIGN_PROCESSES, else one a GPU and at least one.
    """
    if place := external.place():
        return place.processes
    count: int | None = switches.read("DIFFALIGN_PROCESSES")
    if count is None:
        return max(torch.cuda.device_count(), 1) if default_device() == "cuda" else 1
    return count


def threads(processes: int) -> int:
    """Returns the CPU threads of each of some processes: OMP_NUM_THREADS, else their share of the machine's."""
    count = torch.get_num_threads()  # PyTorch has read the variable, too
    return count if os.environ.get("OMP_NUM_THREADS") else max(count // processes, 1)


def precision() -> str:
    """Returns the precision of training's forward passes, fp32 or bf16: DIFFALIGN_PRECISION, else bf16 on a GPU."""
    chosen: str | None = switches.read("DIFFALIGN_PRECISION")
    return chosen or ("fp32" if default_device() == "cpu" else "bf16")


def parallel() -> str:
    """Returns how training's networks are spread over its processes, ddp or fsdp: DIFFALIGN_PARALLEL, else ddp."""
    return switches.read("DIFFALIGN_PARALLEL") or "ddp"


def gpu() -> str | None:
    """Returns the GPU's name where a GPU computes: another model rounds otherwise."""
    return torch.cuda.get_device_name() if default_device() == "cuda" else None


def compile_choice() -> bool | None:
    """Tells whether training compiles its networks: DIFFALIGN_COMPILE, else not on a CPU; None: by the work to come.

    `planning/compiling.py` decides then.
    """
    chosen: bool | None = switches.read("DIFFALIGN_COMPILE")
    return False if chosen is None and default_device() == "cpu" else chosen
