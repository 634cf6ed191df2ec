"""The noising processes behind one seam: noising, what the network predicts, and back, a step at a time.

Shapes: B batch, C latent channels, h w latent height and width, T timesteps of the schedule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
Cond = dict[str, Tensor]
"""A condition: tensors with the batch first; only the model's family knows what is in it."""
Denoise = Callable[[Tensor, Tensor, Cond], Tensor]
"""A network (x_t [B, C, h, w], t [B], cond) -> [B, C, h, w]."""


class Process(Protocol):
    """How images become noise. A time t grows with the noise; its unit and type are the process's own."""

    @property
    def T(self) -> int:
        """The number of timesteps that the network was trained with."""

    @property
    def shift(self) -> float:
        """By what a schedule's times are moved towards the noise; 1 is not at all."""

    @property
    def sampler(self) -> dict[str, Any]:
        """What a manifest says of the sampler that `sampling_times` and `step` make: its name, what it depends on."""

    def time(self, share: float) -> int | float:
        """The time t at a share in [0, 1] of the schedule: 0 is clean, at 1 all is noise."""

    def span(self, shares: Sequence[float]) -> range | None:
        """The timesteps between two shares of the schedule in [0, 1], at least one; None where t is a float."""

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w] from clean latents, noise and t [B]."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output at x_t, [B, C, h, w]."""

    def sampling_times(self, steps: int) -> list[int] | list[float]:
        """The steps + 1 times, falling, that a sampler goes through from noise to image."""

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """x at t_prev [B, C, h, w] from the network's output at x_t; t and t_prev follow each other in those times."""


def scaled_linear(beta_start: float, beta_end: float, T: int) -> Tensor:
    """alpha_bar [T] of Stable Diffusion's schedule: betas linear in their square roots (Rombach et al. 2022)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


@dataclass(frozen=True)
class Diffusion:
    """A variance-preserving process x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).

    `alpha_bar` is [T], float32, on the CPU; `prediction` says what the network is trained to output: the noise
    ("epsilon"), or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022).
    """

    alpha_bar: Tensor
    prediction: Prediction

    @property
    def T(self) -> int:
        """The number of timesteps; t runs over 0..T-1."""
        return len(self.alpha_bar)

    @property
    def shift(self) -> float:
        """None: alpha_bar says it all."""
        return 1.0

    @property
    def sampler(self) -> dict[str, Any]:
        """DDIM without added noise."""
        return {"name": "ddim", "eta": 0.0}

    def time(self, share: float) -> int:
        """The timestep 0..T-1 at a share in [0, 1] of the schedule."""
        return min(int(share * self.T), self.T - 1)

    def span(self, shares: Sequence[float]) -> range:
        """The timesteps between two shares of the schedule in [0, 1], e.g. (0.4, 1): 400..999 of 1000; at least one."""
        low, high = (round(share * self.T) for share in shares)
        low = min(low, self.T - 1)
        return range(low, max(high, low + 1))

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), each [B, 1, 1, 1] in `like`'s device and dtype, for integer t [B]."""
        alpha_bar = self.alpha_bar.to(like.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w] from clean latents, noise and integer t [B]."""
        alpha, sigma = self.scales(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output at x_t, [B, C, h, w]."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self.scales(t, x0)
        return alpha * eps - sigma * x0

    def split(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps), each [B, C, h, w], that a network output at x_t stands for."""
        alpha, sigma = self.scales(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        return alpha * x_t - sigma * output, alpha * output + sigma * x_t

    def sampling_times(self, steps: int) -> list[int]:
        """Stable Diffusion's spacing, falling: multiples of T // steps, plus one ("leading" with an offset of one).

        The last, below zero, stands for the schedule's first alpha_bar. ValueError beyond T // 2 steps, where this
        spacing doesn't reach the noisiest timesteps.
        """
        if not 1 <= steps <= self.T // 2:
            raise ValueError(f"steps: expected 1..{self.T // 2}, half of the {self.T} timesteps, got {steps}")
        return [i * (self.T // steps) + 1 for i in reversed(range(-1, steps))]

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """x at t_prev [B, C, h, w] from the network's output at x_t (Song et al. 2020, eq. 12 with eta = 0).

        A t_prev below zero stands for the schedule's first alpha_bar, as Stable Diffusion's set_alpha_to_one = false.
        """
        x0, eps = self.split(output, x_t, torch.full((len(x_t),), int(t), device=x_t.device))
        return self.noised(x0, eps, torch.full((len(x_t),), max(int(t_prev), 0), device=x_t.device))


@dataclass(frozen=True)
class Flow:
    """Rectified flow x_t = (1 - t) x0 + t eps, t in [0, 1] (Esser et al. 2024, arXiv 2403.03206, eq. 13).

    The network predicts the velocity v = eps - x0. It is told t * T. `shift` moves the sampler's times towards the
    noise: t becomes shift * t / (1 + (shift - 1) * t) (eq. 23); training's times only where their density says so.
    """

    T: int
    shift: float

    @property
    def sampler(self) -> dict[str, Any]:
        """Euler's method on shifted times."""
        return {"name": "euler", "shift": self.shift}

    def time(self, share: float) -> float:
        """The share itself. Nothing is divided by t or 1 - t anywhere, so neither end is cut off."""
        return share

    def span(self, shares: Sequence[float]) -> None:
        """None: t is a float."""

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w] from clean latents, noise and t [B] in [0, 1]."""
        t = broadcast(t, x0)
        return (1 - t) * x0 + t * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The velocity eps - x0, [B, C, h, w], the same at every t.

        Diffusion-DPO's loss on errors against it is Flow-DPO (Liu et al. 2025, arXiv 2501.13918, eq. 6) with a constant
        beta, as in its experiments. The derivation gives beta (1 - t)^2 instead, which the paper reports to
        over-optimise and which isn't offered here.
        """
        return eps - x0

    def sampling_times(self, steps: int) -> list[float]:
        """The float32 times of diffusers' FlowMatchEulerDiscreteScheduler, falling from 1 to 0.

        It spaces them evenly down to the shifted 1 / T, and then shifts them, so that the lower end is shifted twice.
        """
        lowest = self._shifted(torch.tensor(1 / self.T)).item()
        evenly = torch.from_numpy(np.linspace(self.T, lowest * self.T, steps) / self.T)
        return [*self._shifted(evenly).float().tolist(), 0.0]

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """x at t_prev [B, C, h, w] by Euler's method from the velocity at x_t."""
        return x_t + (t_prev - t) * output

    def _shifted(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)


def broadcast(t: Tensor, like: Tensor) -> Tensor:
    """t [B] as [B, 1, 1, 1] in `like`'s device and dtype."""
    return t.to(like.device, like.dtype).view(-1, 1, 1, 1)
