"""Defines the noising processes: noising, the network's target, and the transitions of every sampler.

Every transition of every sampler is Gaussian, and linear in the state x and the network's output o:
mean = a x + b o, with a standard deviation s of its noise. `Process.coefficients` gives (a, b, s).

Shapes: B batch, C latent channels, h w latent height and width, T timesteps of the schedule.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]
Cond = dict[str, Tensor]
"""A condition: tensors with the batch first; only the model's family knows what is in it."""
Denoise = Callable[[Tensor, Tensor, Cond], Tensor]
"""A network (x_t [B, C, h, w], t [B], cond) -> [B, C, h, w]."""
Coefficients = tuple[Tensor, Tensor, Tensor]
"""(a, b, s) of some transitions, each [B], float64: mean = a x + b o, standard deviation s."""
FlowNoise = Literal["sde", "dance", "cps"]
CLEAN = -math.inf
"""The time of an image without any noise, for a `Diffusion`, whose timestep 0 has a little."""


class Process(Protocol):
    """Says how images become noise. A time t grows with the noise; its unit and type are the process's own."""

    @property
    def T(self) -> int:
        """Returns the number of timesteps that the network was trained with."""

    @property
    def shift(self) -> float:
        """Returns the factor that shifts a schedule's times towards the noise; 1 is no shift."""

    @property
    def plain_sampler(self) -> dict[str, Any]:
        """Returns the name and settings of the deterministic sampler that the model's scheduler config describes."""

    def time(self, share: float) -> int | float:
        """Returns the time t at a share in [0, 1] of the schedule: 0 is clean, at 1 all is noise."""

    def span(self, shares: Sequence[float]) -> range | None:
        """Returns the timesteps between two shares of the schedule in [0, 1], at least one; None where t is a float."""

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns x_t [B, C, h, w] from clean latents, noise and t [B]."""

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns the network's target at x_t, [B, C, h, w]."""

    def coefficients(self, t: Tensor, t_prev: Tensor, noise: float) -> Coefficients:
        """Returns the transitions from times t to t_prev, each [B], at a noise level: 0 is deterministic."""

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """Returns x at t_prev [B, C, h, w] from the network's output at x_t, without noise."""


def transition(
    process: Process, output: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: float
) -> tuple[Tensor, Tensor]:
    """Returns the mean [B, C, h, w] and the standard deviation [B] of x at t_prev, given x_t and the network's output.

    t and t_prev are [B]. Both results have the dtype of `x_t`. A row's values don't depend on the other rows', so that
    a rollout and the training on its rows compute equal bits from equal outputs.
    """
    a, b, s = process.coefficients(t, t_prev, noise)
    return broadcast(a, x_t) * x_t + broadcast(b, x_t) * output, s.to(x_t.device, x_t.dtype)


def scaled_linear(beta_start: float, beta_end: float, T: int) -> Tensor:
    """Returns Stable Diffusion's alpha_bar [T]: betas linear in their square roots (Rombach et al. 2022)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Returns a schedule [T] whose last timestep is pure noise: alpha_bar 0 there, unchanged at the first timestep.

    sqrt(alpha_bar) is shifted and scaled (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
    """
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


@dataclass(frozen=True)
class Diffusion:
    """A variance-preserving process x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).

    `alpha_bar` is [T], float32, on the CPU; `prediction` says what the network is trained to output: the noise
    ("epsilon"), or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022).
    """

    alpha_bar: Tensor
    prediction: Prediction

    def __post_init__(self) -> None:
        """Raises ValueError where a timestep is pure noise and the network predicts it: that says nothing of x0."""
        if self.prediction == "epsilon" and not bool(self.alpha_bar.min() > 0):
            raise ValueError("prediction: expected v_prediction with a schedule that has alpha_bar 0, got epsilon")

    @property
    def T(self) -> int:
        """Returns the number of timesteps; t runs over 0..T-1."""
        return len(self.alpha_bar)

    @property
    def shift(self) -> float:
        """Returns None: alpha_bar holds the whole schedule."""
        return 1.0

    @property
    def plain_sampler(self) -> dict[str, Any]:
        """Returns DDIM without added noise, at Stable Diffusion's timesteps."""
        return {"name": "ddim", "eta": 0.0, "spacing": "leading"}

    def time(self, share: float) -> int:
        """Returns the timestep 0..T-1 at a share in [0, 1] of the schedule."""
        return min(int(share * self.T), self.T - 1)

    def span(self, shares: Sequence[float]) -> range:
        """Returns the timesteps between two shares in [0, 1], at least one: 400..999 of 1000 for (0.4, 1)."""
        low, high = (round(share * self.T) for share in shares)
        low = min(low, self.T - 1)
        return range(low, max(high, low + 1))

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha_t, sigma_t), each [B, 1, 1, 1] in `like`'s device and dtype, for integer t [B]."""
        alpha_bar = self.alpha_bar.to(like.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns x_t [B, C, h, w] from clean latents, noise and integer t [B]."""
        alpha, sigma = self.scales(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns the network's target at x_t, [B, C, h, w]."""
        if self.prediction == "epsilon":
            return eps
        alpha, sigma = self.scales(t, x0)
        return alpha * eps - sigma * x0

    def split(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (x0, eps), each [B, C, h, w], computed from a network's output at x_t."""
        alpha, sigma = self.scales(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - sigma * output) / alpha, output
        return alpha * x_t - sigma * output, alpha * output + sigma * x_t

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha, sigma), each [B], float64, at times t [B]: x_t = alpha x0 + sigma eps.

        A time between two timesteps has their ratio sigma / alpha interpolated linearly. A time below zero has the
        schedule's first alpha_bar (Stable Diffusion's set_alpha_to_one = false), but for `CLEAN`: alpha 1, sigma 0.
        """
        alpha_bar = self.alpha_bar.to(t.device, torch.float64)
        inside = t.to(torch.float64).clamp(0, self.T - 1)
        low, share = inside.floor().long(), inside.frac()
        ratio = ((1 - alpha_bar) / alpha_bar).sqrt()
        between = ratio[low] + share * (ratio[(low + 1).clamp(max=self.T - 1)] - ratio[low])
        level = torch.where(share == 0, alpha_bar[low], 1 / (1 + between**2))
        level = torch.where(t == CLEAN, torch.ones_like(level), level)
        return level.sqrt(), (1 - level).sqrt()

    def coefficients(self, t: Tensor, t_prev: Tensor, noise: float) -> Coefficients:
        """Returns DDIM's transitions from t to t_prev, each [B], at eta = `noise` (Song et al. 2020, eq. 12, 16).

        eta 1 is the posterior of DDPM (Ho et al. 2020, eq. 7). With alpha' and sigma' at t_prev,
        s = eta (sigma' / sigma) sqrt(1 - alpha^2 / alpha'^2) and c = sqrt(sigma'^2 - s^2), the mean is
        alpha' x0 + c eps, where x0 and eps are linear in x_t and the network's output (see `split`).
        """
        (alpha, sigma), (alpha_prev, sigma_prev) = self.levels(t), self.levels(t_prev)
        s = noise * sigma_prev / sigma * (1 - (alpha / alpha_prev) ** 2).clamp(min=0).sqrt()
        c = (sigma_prev**2 - s**2).clamp(min=0).sqrt()
        if self.prediction == "epsilon":
            return alpha_prev / alpha, c - alpha_prev * sigma / alpha, s
        return alpha_prev * alpha + c * sigma, c * alpha - alpha_prev * sigma, s

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """Returns x at t_prev [B, C, h, w] from the network's output at x_t (Song et al. 2020, eq. 12 with eta = 0).

        Equals the mean by `coefficients` at noise 0 but for rounding (1e-6, tested): published images were made in this
        order of operations, and stay the same bits. t is a timestep; t_prev below zero stands for the schedule's
        first alpha_bar (Stable Diffusion's set_alpha_to_one = false).
        """
        x0, eps = self.split(output, x_t, torch.full((len(x_t),), int(t), device=x_t.device))
        return self.noised(x0, eps, torch.full((len(x_t),), max(int(t_prev), 0), device=x_t.device))


@dataclass(frozen=True)
class Flow:
    """Rectified flow x_t = (1 - t) x0 + t eps, t in [0, 1] (Esser et al. 2024, arXiv 2403.03206, eq. 13).

    The network predicts the velocity v = eps - x0. It is told t * T. `shift` moves the sampler's times towards the
    noise: t becomes shift * t / (1 + (shift - 1) * t) (eq. 23); training's times only where their density says so.
    `form` is how `coefficients` adds noise, where it does.
    """

    T: int
    shift: float
    form: FlowNoise = "sde"

    @property
    def plain_sampler(self) -> dict[str, Any]:
        """Returns Euler's method."""
        return {"name": "flow_euler"}

    def time(self, share: float) -> float:
        """Returns the share itself. Nothing is divided by t or 1 - t anywhere, so neither end is cut off."""
        return share

    def span(self, shares: Sequence[float]) -> None:
        """Returns None: t is a float."""

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns x_t [B, C, h, w] from clean latents, noise and t [B] in [0, 1]."""
        t = broadcast(t, x0)
        return (1 - t) * x0 + t * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Returns the velocity eps - x0, [B, C, h, w], equal at every t.

        Diffusion-DPO's loss on errors against it is Flow-DPO (Liu et al. 2025, arXiv 2501.13918, eq. 6) with a constant
        beta, as in its experiments. The derivation gives beta (1 - t)^2 instead, which the paper reports to
        over-optimise and which isn't offered here.
        """
        return eps - x0

    def coefficients(self, t: Tensor, t_prev: Tensor, noise: float) -> Coefficients:
        """Returns the transitions from t to t_prev < t, each [B], at a noise level, in the process's `form`.

        At noise 0 all forms are Euler's method: a = 1, b = dt = t_prev - t. Otherwise, with the noise level n:

        - sde: the SDE of Flow-GRPO (Liu et al. 2025, arXiv 2505.05470), diffusion n sqrt(t / (1 - t)). Where that is
          infinite, at t = 1, the code published with the paper has 1 - t_prev in the denominator, and so has this.
        - dance: the SDE of DanceGRPO (Xue et al. 2025, arXiv 2505.07818), diffusion n at all times.
        - cps: coefficients-preserving sampling (Wang & Yu 2025, arXiv 2509.05952), s = t_prev sin(n pi / 2): the noise
          at t_prev is part old, part new, and of the amount that the network expects.
        """
        t, t_prev = t.to(torch.float64), t_prev.to(torch.float64)
        dt = t_prev - t
        if self.form == "cps":
            s = t_prev * math.sin(noise * math.pi / 2)
            kept = (t_prev**2 - s**2).clamp(min=0).sqrt()
            return 1 - t_prev + kept, (1 - t) * kept - (1 - t_prev) * t, s
        if self.form == "dance":
            diffusion = torch.full_like(t, noise)
        else:
            diffusion = noise * (t / (1 - torch.where(t == 1, t_prev, t))).sqrt()
        drift = diffusion**2 / (2 * t)  # of the score, which is -(x + (1 - t) v) / t
        return 1 + drift * dt, (1 + drift * (1 - t)) * dt, diffusion * (-dt).sqrt()

    def step(self, output: Tensor, x_t: Tensor, t: float, t_prev: float) -> Tensor:
        """Returns x at t_prev [B, C, h, w] by Euler's method from the velocity at x_t."""
        return x_t + (t_prev - t) * output

    def shifted(self, t: Tensor) -> Tensor:
        """Returns times moved towards the noise by the schedule's shift."""
        return self.shift * t / (1 + (self.shift - 1) * t)


def broadcast(t: Tensor, like: Tensor) -> Tensor:
    """Returns t [B] as [B, 1, 1, 1] in `like`'s device and dtype."""
    return t.to(like.device, like.dtype).view(-1, 1, 1, 1)
