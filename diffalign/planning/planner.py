"""Plans the training runs of params.yaml before they start: their work, time, memory and disk space.

The denoiser is built from its config on the meta device, and one step of the real method on one pair is counted; so the
plan of SD1.5 or SDXL needs neither weights nor memory, and of the models that `fetch` brings no download.
"""

from dataclasses import dataclass, replace
from typing import Any

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.core.files import canonical_json
from diffalign.models import family as families
from diffalign.planning import cards, counts, estimates, raters, rollouts
from diffalign.planning.compiling import decide
from diffalign.planning.counts import Counts
from diffalign.runtime import environment, timings


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
    """FLOP/s of matrix products on one device, measured, or with `card` to be expected."""
    card: cards.Card | None = None
    """The GPU that the plan is for, where it isn't this machine's."""


@dataclass(frozen=True)
class Measured:
    """Measured speed and memory of an earlier run with equal settings (see `speed_key`)."""

    pairs_per_second: float
    peak: int | None
    """Peak bytes on the first device, on a CPU of the first process; None for old runs that didn't record it."""


@dataclass(frozen=True)
class Plan:
    """The planned work, speed and memory of one policy's training.

    A policy that learns from its own pictures has pictures where others have pairs.
    """

    name: str
    policy: Trained
    counts: Counts
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
    import torch

    from diffalign.planning.flops import matmul_rate

    device, precision = environment.default_device(), environment.precision()
    processes = environment.world_size()
    rate = matmul_rate(device, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], None, seconds)
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


def other_machine(gpu: str, number: int) -> Machine:
    """Returns a machine with a number of GPUs of a known name; UserError for an unknown one."""
    card = cards.find(gpu)
    return Machine("cuda", card.title, number, 1, card.precision, environment.parallel(), None, card.rate, card)


def plans(params: Params, machine: Machine) -> list[Plan]:
    """Returns a plan for every trained policy of the params."""
    runs = {
        speed_key(**line["about"]): Measured(line["pairs_per_second"], line.get("peak_bytes"))
        for line in timings.rates()
    }
    found = []
    for name, policy in params.policies.items():
        if isinstance(policy, Trained):
            log_every = params.runtime.log_every
            plan = plan_policy(name, policy, log_every, counted(params, name, policy), machine)
            of_machine = {**vars(machine), "compiled": compiled(plan, machine)}
            about = (params.model.family, params.precompute.resolution, policy.model_dump(), of_machine, log_every)
            found.append(replace(plan, measured=None if machine.card else runs.get(speed_key(*about))))
    return found


def counted(params: Params, name: str, policy: Trained) -> Counts:
    """Returns a policy's counts, with the vectors of its raters; of a single one before they are known."""
    found = counts.of_policy(params, name, policy)
    if policy.rater_tokens is None:
        return found
    known = raters.known(params, policy)
    return found.with_vectors(len(known) if known else 1)


def compiled(plan: Plan, machine: Machine) -> bool:
    """Tells whether a planned training compiles its networks."""
    if machine.compiled is not None:
        return machine.compiled
    return decide(plan.flop, machine.rate * machine.processes).compiled


def plan_policy(name: str, policy: Trained, log_every: int, found: Counts, machine: Machine) -> Plan:
    """Returns one policy's plan from its counts, without measurements."""
    micro_batch = min(policy.micro_batch_size, max(policy.rows * policy.batch_size // machine.processes, 1))
    flop = found.flop(log_every)
    memory = estimates.memory(
        found.weights,
        found.shapes(),
        lora=policy.adapter == "lora" and policy.reference_init is None,
        reference=policy.reference,
        optimizer=policy.optimizer,
        ema=policy.ema is not None,
        precision=machine.precision,
        shares=machine.processes if machine.parallel == "fsdp" else None,
        accumulates=micro_batch * machine.processes < policy.rows * policy.batch_size,
        activations=micro_batch * found.kept // (2 if machine.precision == "bf16" else 1),
    )
    if isinstance(policy, Rolled):
        # the rewards', whatever the policy's
        precision = estimates.BF16 if machine.device == "cuda" else estimates.FP32
        memory = rollouts.memory(memory, policy, found, micro_batch, machine.processes, precision)
    return Plan(
        name=name,
        policy=policy,
        counts=found,
        flop_per_pair=flop,
        pairs=policy.steps * policy.batch_size,
        pairs_per_second=estimates.pairs_per_second(flop, machine.rate, estimates.UTILISATION, machine.processes),
        measured=None,
        memory=memory,
    )


def speed_key(
    family: str, resolution: int, policy: dict[str, Any], machine: dict[str, Any], log_every: int | None = None
) -> tuple[Any, ...]:
    """Returns a key of the settings that decide a run's speed and memory: runs with equal keys share both.

    `log_every` is among them because methods may compute more in a logged step. `policy` and `machine` may be the
    records of an older run, which lack newer keys.
    """
    own = canonical_json([policy.get(name) for name in ("rollout", "reward", "draws", "moves", "gradient", "kl")])
    names = ("init", "method", "reference", "optimizer", "gradient_checkpointing", "batch_size", "micro_batch_size")
    lora = policy.get("lora")
    adapter = (lora["rank"], *(lora["targets"] or families.find(family).lora_targets)) if lora else None
    tokens = policy.get("rater_tokens")
    what = (adapter, policy.get("ema") is not None, tokens and tokens["only"])
    parts = ("device", "gpu", "processes", "threads", "precision", "parallel", "compiled")
    of_machine = (machine.get(name) for name in parts)
    return (family, resolution, *(policy.get(name) for name in names), own, log_every, *what, *of_machine)
