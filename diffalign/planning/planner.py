"""Plans the training runs of params.yaml before they start: a table of their work, time, memory and disk space.

The denoiser is built from its config.json on the meta device, and one step of the real method on one pair is counted;
so the plan of SD1.5 or SDXL needs neither weights nor memory.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffalign.config.params import Params
from diffalign.config.training import Trained
from diffalign.data.comparisons import table as comparisons
from diffalign.models import family as families
from diffalign.planning import estimates, work
from diffalign.planning.compiling import decide
from diffalign.planning.flops import matmul_rate
from diffalign.planning.meta_models import Skeleton
from diffalign.runtime import environment, timings

COMPARISONS = Path("data/comparisons")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """The properties of a machine and its settings on which a run's speed depends, besides its params."""

    device: str
    gpu: str | None
    """The GPU's name, None on a CPU."""
    processes: int
    threads: int
    """CPU threads of each process."""
    precision: str
    parallel: str
    """The parallelism of the processes, ddp or fsdp."""
    compiled: bool | None
    """True where the networks are compiled; None where each policy's work decides (`compiling.py`)."""
    rate: float
    """Measured FLOP/s of matrix products on one device."""


@dataclass(frozen=True)
class Measured:
    """Measured speed and memory of an earlier run with equal settings (see `speed_key`)."""

    pairs_per_second: float
    peak: int | None
    """Peak bytes on the first device, on a CPU of the first process; None for old runs that didn't record it."""


@dataclass(frozen=True)
class Plan:
    """The planned work, speed and memory of one policy's training."""

    name: str
    flop_per_pair: float
    pairs: int
    pairs_per_second: float
    """Estimated from the rate of matrix products."""
    measured: Measured | None
    """Measurements of the last run with equal settings; None where there was none."""
    memory: estimates.Memory

    @property
    def flop(self) -> float:
        """Returns the FLOPs of the whole run."""
        return self.flop_per_pair * self.pairs

    @property
    def seconds(self) -> float:
        """Returns the whole run's time in seconds, at the measured rate where there is one, else at the estimate."""
        return self.pairs / (self.measured or self).pairs_per_second


def this_machine(seconds: float = 1.0) -> Machine:
    """Returns the machine that the environment describes, its matrix products measured for some seconds."""
    device, precision = environment.default_device(), environment.precision()
    processes = environment.world_size()
    rate = matmul_rate(device, DTYPES[precision], None, seconds)
    return Machine(
        device=device,
        gpu=environment.gpu(),
        processes=processes,
        threads=environment.threads(processes),
        precision=precision,
        parallel=environment.parallel(),
        compiled=environment.compile_choice(),
        rate=rate,
    )


def plans(params: Params, machine: Machine) -> list[Plan]:
    """Returns a plan for every trained policy of the params."""
    runs = {
        speed_key(**line["about"]): Measured(line["pairs_per_second"], line.get("peak_bytes"))
        for line in timings.rates()
    }
    found = []
    for name, policy in params.policies.items():
        if isinstance(policy, Trained):
            sys.stderr.write(f"plan {name}\n")
            log_every, skeleton = params.runtime.log_every, work.prepared(params, name, policy)
            plan = plan_policy(name, policy, log_every, skeleton, machine, None)
            of_machine = {**vars(machine), "compiled": compiled(plan, machine)}
            about = (params.model.family, params.precompute.resolution, policy.model_dump(), of_machine, log_every)
            found.append(replace(plan, measured=runs.get(speed_key(*about))))
    return found


def compiled(plan: Plan, machine: Machine) -> bool:
    """Tells whether a planned training compiles its networks."""
    if machine.compiled is not None:
        return machine.compiled
    return decide(plan.flop, machine.rate * machine.processes).compiled


def plan_policy(
    name: str, policy: Trained, log_every: int, skeleton: Skeleton, machine: Machine, measured: Measured | None
) -> Plan:
    """Returns one policy's plan on a prepared skeleton; `measured` is of an earlier run with equal settings."""
    micro_batch = min(policy.micro_batch_size, max(policy.batch_size // machine.processes, 1))
    flop, kept = work.of_pair(skeleton, policy, log_every)
    trained = [tuple(p.shape) for p in skeleton.network.parameters() if p.requires_grad]
    return Plan(
        name=name,
        flop_per_pair=flop,
        pairs=policy.steps * policy.batch_size,
        pairs_per_second=estimates.pairs_per_second(flop, machine.rate, estimates.UTILISATION, machine.processes),
        measured=measured,
        memory=estimates.memory(
            sum(p.numel() for p in skeleton.network.parameters()),
            trained,
            lora=policy.adapter == "lora",
            reference=policy.reference,
            optimizer=policy.optimizer,
            ema=policy.ema is not None,
            precision=machine.precision,
            shares=machine.processes if machine.parallel == "fsdp" else None,
            accumulates=micro_batch * machine.processes < policy.batch_size,
            activations=micro_batch * kept // (2 if machine.precision == "bf16" else 1),
        ),
    )


def speed_key(
    family: str, resolution: int, policy: dict[str, Any], machine: dict[str, Any], log_every: int | None = None
) -> tuple[Any, ...]:
    """Returns a key of the settings that decide a run's speed and memory: runs with equal keys share both.

    `log_every` is among them because methods may compute more in a logged step. `policy` and `machine` may be the
    records of an older run, which lack newer keys.
    """
    names = ("init", "method", "reference", "optimizer", "gradient_checkpointing", "batch_size", "micro_batch_size")
    lora = policy.get("lora")
    adapter = (lora["rank"], *(lora["targets"] or families.find(family).lora_targets)) if lora else None
    averaged = policy.get("ema") is not None
    parts = ("device", "gpu", "processes", "threads", "precision", "parallel", "compiled")
    of_machine = (machine.get(name) for name in parts)
    return (family, resolution, *(policy.get(name) for name in names), log_every, adapter, averaged, *of_machine)


def counts(folder: Path) -> tuple[int, int, float] | None:
    """Returns the numbers of distinct images and prompts, and the prompts' mean bytes; None before ingest has run."""
    if not (folder / "comparisons.parquet").exists():
        return None
    table = comparisons.read(folder)
    images = set(table["image_a"].unique().to_pylist()) | set(table["image_b"].unique().to_pylist())
    prompts = ["", *table["prompt"].unique().to_pylist()]
    return len(images), len(prompts), sum(len(text.encode()) for text in prompts) / len(prompts)


def text(params: Params, machine: Machine) -> str:
    """Returns the plan as text: tables of work and memory, the assumptions, and the shards' size."""
    found = plans(params, machine)
    if not found:
        return "No policy is trained."
    lines = [
        *table([["policy", "FLOP a pair", "FLOP in all", "pairs/s", "measured", "hours"], *map(work_row, found)]),
        "",
        *table([["policy", *vars(found[0].memory), "peak", "measured"], *map(memory_row, found)]),
        "",
        f"{machine.processes} process(es) on {machine.device}, {machine.precision}: matrix products at "
        f"{si(machine.rate)}FLOP/s, measured now. pairs/s assumes {estimates.UTILISATION:.0%} of that; beside it "
        "what the last run like it measured (runs/timings.jsonl), which hours then follow. Memory is one device's; "
        "activations are an estimate; the measured peak has the probe in it, on a CPU all of the first process, "
        "PyTorch too. Not in the rest: the probe, saves, the reference's stage, what launching takes.",
        shards_text(params),
    ]
    return "\n".join(lines)


def work_row(item: Plan) -> list[str]:
    """Returns a policy's row of the table of work and time."""
    measured = f"{item.measured.pairs_per_second:.3g}" if item.measured else "-"
    speeds = [f"{item.pairs_per_second:.3g}", measured]
    return [item.name, si(item.flop_per_pair), si(item.flop), *speeds, f"{item.seconds / 3600:.3g}"]


def memory_row(item: Plan) -> list[str]:
    """Returns a policy's row of the memory table: one device's parts, their sum, and the measured peak."""
    measured = f"{si(item.measured.peak)}B" if item.measured and item.measured.peak else "-"
    return [item.name, *(f"{si(size)}B" for size in (*vars(item.memory).values(), item.memory.total)), measured]


def si(value: float) -> str:
    """Returns a number with a decimal prefix: 6.42e12 is "6.42 T"."""
    power = min(int(math.log10(value)) // 3, 6) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}"


def table(rows: list[list[str]]) -> list[str]:
    """Rows as lines, padded to their columns' widths."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def shards_text(params: Params) -> str:
    """Returns a line about the disk space that the shards take."""
    skeleton = work.policy_skeleton(params, params.model.path)
    prompt, flips = list(skeleton.prompt.values()), params.precompute.flips
    source = Path(params.data.path)
    known = counts(COMPARISONS) if source.exists() else None  # what was made of other data says nothing of these
    if known is None:
        image = estimates.shard_bytes(1, 0, skeleton.latent, prompt, flips)
        text = estimates.shard_bytes(0, 1, skeleton.latent, prompt, flips)
        each = f"{image / 1e3:.4g} kB an image, {text / 1e3:.4g} a prompt"
        missing = "" if source.exists() else f" {source} (data.path) isn't there: python pipeline.py fetch."
        return f"Shards: {each}. How many there are isn't known before `dvc repro ingest` has run.{missing}"
    images, prompts, length = known
    # The unconditional condition is one more prompt's record.
    size = estimates.shard_bytes(images, prompts + 1, skeleton.latent, prompt, flips, round(length))
    return f"Shards: {si(size)}B for {images} images and {prompts} prompts; as much again where DVC copies."
