"""Alignment methods: what a policy is trained to minimise, and on what batches.

A method is a module `diffalign/methods/NAME.py`, its settings `diffalign/config/methods/NAME.py`. The module has
`build(settings, context)`, which returns the method; `context` gives it its source of batches.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from torch import Tensor

from diffalign.config.training import Trained
from diffalign.core import axes
from diffalign.diffusion.process import Denoise
from diffalign.reference.reference import Reference

Logs = dict[str, Tensor]
Source = TypeVar("Source")


class Old(Protocol):
    """A copy of the policy's weights as they were at an earlier step, which checkpoints keep and processes share."""

    def keep(self, share: float = 0.0) -> None:
        """Moves the copy to the present weights: it keeps `share` of what it was; 0: none of it."""

    def put_back(self) -> AbstractContextManager[None]:
        """Gives the policy the old weights while the block runs, then the present ones, bit for bit."""


class Context(Protocol):
    """Offers a method what a training run has; a source is opened when a method asks for it."""

    def source(self, kind: type[Source], passes: int = 1) -> Source:
        """Returns this rank's share of the global batches, from the source that is a class: `PairSource`, say.

        `passes` is how often a method reads each step's batches. Raises UserError where the data has none.
        """

    def old(self) -> Old:
        """Returns a copy of the policy's weights, the init's at first; to be asked for when the method is built."""


class Method(Protocol):
    """Trains a policy, a denoiser (x_t, t, cond) -> [B, C, h, w], held to a reference or to none."""

    def batches(self, policy: Denoise, reference: Reference | None, step: int) -> Iterator[Any]:
        """Yields this rank's micro-batches of an optimizer step: from shards, or from rollouts of the policy.

        What the loss needs to know of the whole global batch is computed here.
        """

    def about(self) -> dict[str, float]:
        """Returns its `beta`, and what that is in other code's terms (`losses.TERMS`), for log, policy.json and MLflow.

        Empty for a method without one.
        """

    @property
    def pull(self) -> Callable[[Tensor], Tensor] | None:
        """Returns a function from pairs' margins to the rates, at most 1, at which the loss falls with them.

        A probe counts the pairs whose rate is nearly 0, as they train nothing any more. None: rates never get small.
        """

    def state(self) -> dict[str, Tensor]:
        """Returns what the method keeps from step to step, by name; empty where a step needs its number alone.

        Every process has all of it, the same; a checkpoint keeps the first one's.
        """

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave after the step that training goes on from."""

    def loss(self, policy: Denoise, reference: Reference | None, batch: Any, log: bool) -> tuple[Tensor, Logs]:
        """Returns the sum of the weighted losses over the micro-batch, a scalar, and what to log: sums over it, too.

        `log` says that the logs will be used: a method may leave out what it would compute for them alone.
        """


def load(settings: Trained, context: Context) -> Method:
    """Builds the method that a policy's settings name."""
    method: Method = axes.load("diffalign.methods", settings.method).build(settings, context)
    return method
