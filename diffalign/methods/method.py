"""Alignment methods behind one seam: where batches come from, and what is minimised."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from diffalign.diffusion.process import Denoise
from diffalign.methods.dpo import DPO
from diffalign.methods.kto import KTO
from diffalign.methods.mapo import MaPO
from diffalign.methods.sft import SFT
from diffalign.reference.reference import Reference

Logs = dict[str, Tensor]


class Method(Protocol):
    """A way to train a policy, a denoiser (x_t, t, cond) -> [B, C, h, w], held to a reference or to none."""

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[Any]:
        """This rank's micro-batches of an optimizer step: from shards, or from rollouts of the policy.

        What the loss needs to know of the whole global batch is computed here.
        """

    def about(self) -> dict[str, float]:
        """What its beta is in other code's terms, by name (`objectives.TERMS`); for the log, policy.json and MLflow."""

    def loss(self, policy: Denoise, reference: Reference | None, batch: Any, log: bool) -> tuple[Tensor, Logs]:
        """The sum of the weighted losses over the micro-batch, a scalar, and what to log: sums over it too.

        `log` says that the logs will be used: a method may leave out what it would compute for them alone.
        """


def load(policy: dict[str, Any], source: Any) -> Method:
    """The method that a policy's params name, on a source of pairs; of images by themselves, if it is `UNPAIRED`."""
    return METHODS[policy["method"]](policy, source)


METHODS: dict[str, Callable[[dict[str, Any], Any], Method]] = {
    "dpo": lambda policy, source: DPO(source, policy["beta"], policy["link"], policy["safeguard"]),
    "kto": lambda policy, source: KTO(source, policy["beta"], policy["desirable_share"]),
    "mapo": lambda policy, source: MaPO(source, policy["beta"]),
    "sft": lambda policy, source: SFT(source),
}

UNPAIRED = {"kto"}
"""The methods that learn from images by themselves, not from pairs."""
