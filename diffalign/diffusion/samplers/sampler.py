"""Defines what a sampler is, and loads one by its name in params.

A sampler is a file `diffalign/diffusion/samplers/NAME.py` with a function or class `build`: it takes the sampler's
settings by name, and gives a `Sampler`. Its settings stand in `diffalign/config/samplers.py`.
Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.diffusion.process import Diffusion, Flow, Process, transition

Move = tuple[float, float]
"""Two times (t, t_prev): the network is told t, and x is taken from there to t_prev."""
FLOW = "flow_"
"""Prefix of the names of samplers for flow models; others are for diffusion models."""
Solver = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor | None]]
"""A function (output, x, t, t_prev) -> (mean [B, C, h, w] of x at t_prev, its standard deviation [B]; None: exact).

A solver of several steps remembers earlier outputs: each trajectory needs one of its own.
"""


@dataclass(frozen=True)
class Plan:
    """A sampler for one process and one number of steps."""

    process: Process
    """The process that `noise` refers to: `process.coefficients(t, t_prev, noise)` are the moves' coefficients."""
    moves: list[Move]
    noise: float
    """The noise level; 0: the picture is a function of the initial noise."""
    solver: Callable[[], Solver]
    """Makes a solver for one trajectory."""
    scale: float = 1.0
    """The standard deviation of the initial noise."""


class Sampler(Protocol):
    """A rule that leads from noise to a picture: through which times, and by which step."""

    def plan(self, process: Process, steps: int) -> Plan:
        """Plans `steps` steps; UserError where the sampler isn't made for the process, or not for so many steps."""


def load(settings: Mapping[str, Any]) -> Sampler:
    """Builds a sampler from its settings in params: its `name`, and what its file's `build` takes."""
    others = {key: value for key, value in settings.items() if key != "name"}
    return cast(Sampler, axes.load("diffalign.diffusion.samplers", settings["name"]).build(**others))


def exact(process: Process) -> Solver:
    """Returns the deterministic solver of one step, `Process.step`."""
    return lambda output, x, t, t_prev: (process.step(output, x, t, t_prev), None)


def by_coefficients(process: Process, noise: float) -> Solver:
    """Returns the solver of one step that `Process.coefficients` gives at a noise level."""

    def solve(output: Tensor, x: Tensor, t: float, t_prev: float) -> tuple[Tensor, Tensor | None]:
        now, then = (torch.full((len(x),), time, device=x.device) for time in (t, t_prev))
        mean, std = transition(process, output, x, now, then, noise)
        return mean, std if noise else None

    return solve


def diffusion(process: Process, name: str) -> Diffusion:
    """Returns the process if it is a `Diffusion`; UserError otherwise. `name` is the sampler's."""
    if not isinstance(process, Diffusion):
        raise unsuited(name, "diffusion", "flow")
    return process


def flow(process: Process, name: str) -> Flow:
    """Returns the process if it is a `Flow`; UserError otherwise. `name` is the sampler's."""
    if not isinstance(process, Flow):
        raise unsuited(name, "flow", "diffusion")
    return process


def unsuited(name: str, wanted: str, found: str) -> UserError:
    """Returns the error for a sampler of `wanted` models on a `found` one; it lists those of such models."""
    there = axes.names("diffalign.diffusion.samplers")
    suited = [each for each in there if each.startswith(FLOW) is (found == "flow")]
    return UserError(
        f"generate.sampler, or the policy's own in generate.overrides: {name} samples from {wanted} models, found a "
        f"{found} model: expected one of {', '.join(suited)}"
    )
