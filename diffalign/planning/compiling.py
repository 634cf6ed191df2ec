"""Decides whether a training compiles its networks: only where the work to come takes some minutes without."""

from dataclasses import dataclass

from diffalign.config.params import Params
from diffalign.planning import counts, estimates
from diffalign.runtime import environment

WORTH = 600.0
"""Seconds of work, uncompiled, from which on compiling pays.

On one H200 SD1.5 took 28.8 ms a pair, compiled 18.9, with a first step of up to 156 s: 156 / (1 - 18.9 / 28.8) is 454.
"""


@dataclass(frozen=True)
class Decision:
    """Whether networks are compiled, and the reason in words."""

    compiled: bool
    why: str

    def told(self, name: str) -> str:
        """Returns the line of the log."""
        return f"{name}: networks are {'' if self.compiled else 'not '}compiled: {self.why}\n"


def decide(flop: float, rate: float) -> Decision:
    """Returns the decision for so many FLOPs to come on devices of together `rate` FLOP/s in matrix products."""
    seconds = flop / (estimates.UTILISATION * rate)
    text = f"about {seconds / 60:.3g} min of work at {estimates.UTILISATION:.0%} of {rate / 1e12:.3g} TFLOP/s"
    compiled = seconds >= WORTH
    return Decision(compiled, f"{text}, {'at least' if compiled else 'under'} {WORTH / 60:g} (DIFFALIGN_COMPILE)")


def chosen(params: Params, names: list[str], before: bool | None = None) -> Decision:
    """Returns the decision for trainings of some policies: DIFFALIGN_COMPILE's, else by all their work together.

    A run that goes on from a checkpoint does as it did `before` that, for equal bits.
    """
    device = environment.default_device()
    if (choice := environment.compile_choice()) is not None:
        return Decision(choice, f"DIFFALIGN_COMPILE says so, or the device ({device})")
    if before is not None:
        return Decision(before, "as before its checkpoint, for equal bits")
    import torch  # here, since `plan` for another machine goes without

    from diffalign.planning.flops import matmul_rate

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[environment.precision()]
    rate = matmul_rate(device, dtype, seconds=0.2) * environment.world_size()
    torch.cuda.empty_cache()  # the workers need the memory
    return decide(sum(counts.whole(params, name) for name in names), rate)
