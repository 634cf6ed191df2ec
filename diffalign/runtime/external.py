"""Joins processes that an external launcher started (torchrun, accelerate launch, srun), where a switch says so only.

A shell may have such variables left over from other work (Kubernetes, SageMaker, a notebook), so they are never taken
as a hint: without `DIFFALIGN_LAUNCHER=external` they are ignored and no worker gets to see them.
"""

import os
from dataclasses import dataclass

from diffalign.core.errors import UserError
from diffalign.runtime import switches

NAMES = {
    "rank": ("RANK", "SLURM_PROCID"),
    "processes": ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID"),
    "port": ("MASTER_PORT",),
}
"""The variables that say a whole number, the first one that is set counts."""


@dataclass(frozen=True)
class Place:
    """Says this process's place among those of a launcher, over all nodes, and the address at which they meet."""

    rank: int
    processes: int
    local_rank: int
    local_processes: int
    address: str
    port: int
    passed: dict[str, str]
    """Other variables by which PyTorch finds the launcher's store, which torchrun has already started."""

    def variables(self) -> dict[str, str]:
        """Returns the variables by which PyTorch's `env://` takes this place."""
        return self.passed | {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.processes),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_processes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def place() -> Place | None:
    """Returns this process's place, None unless `DIFFALIGN_LAUNCHER=external` asks for it.

    Raises UserError, naming all that is wrong, where the launcher's variables are missing or contradict each other.
    """
    if switches.read("DIFFALIGN_LAUNCHER") != "external":
        return None
    found, wrong = {}, []
    for key, names in NAMES.items():
        name = next((n for n in names if os.environ.get(n)), names[0])
        text = os.environ.get(name, "")
        if text.isdecimal():
            found[key] = int(text)
        else:
            wrong.append(f"{' or '.join(names)}: expected a whole number, got {text!r}")
    if not (address := os.environ.get("MASTER_ADDR", "")):
        wrong.append("MASTER_ADDR: expected the first node's address, got ''")
    if not wrong and not 0 <= found["rank"] < found["processes"]:
        wrong.append(f"RANK: expected a number below WORLD_SIZE, {found['processes']}, got {found['rank']}")
    if not wrong and not found["local_rank"] < (local := local_processes(found["processes"])):
        wrong.append(f"LOCAL_RANK: expected a number below LOCAL_WORLD_SIZE, {local}, got {found['local_rank']}")
    if switches.read("DIFFALIGN_PROCESSES"):
        wrong.append("DIFFALIGN_PROCESSES: expected nothing, since the launcher decides the number of processes")
    if wrong:
        raise UserError(
            "DIFFALIGN_LAUNCHER=external joins the processes of torchrun, accelerate launch or srun, whose variables "
            "aren't right. Start the command by one of them, or unset DIFFALIGN_LAUNCHER:\n  " + "\n  ".join(wrong)
        )
    passed = {name: value for name, value in os.environ.items() if name.startswith("TORCHELASTIC_")}
    return Place(**found, local_processes=local_processes(found["processes"]), address=address, passed=passed)


def local_processes(processes: int) -> int:
    """Returns the number of processes on this node: LOCAL_WORLD_SIZE, else an equal share of each of Slurm's nodes."""
    if (text := os.environ.get("LOCAL_WORLD_SIZE", "")).isdecimal():
        return int(text)
    nodes = os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or "1"
    return max(processes // int(nodes), 1) if nodes.isdecimal() and int(nodes) else processes
