"""Rolls a network out along a sampler: the states that it went through, and how probable each move was.

Apart from `sampling`, so that what only training by policy gradients needs reruns nobody else's stages.
Shapes: B batch, S steps, C latent channels, h w latent height and width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffalign.diffusion.policy_gradient import LEAST_STD, log_prob
from diffalign.diffusion.process import Process
from diffalign.diffusion.samplers.sampler import Move, Sampler
from diffalign.diffusion.sampling import Output, StepNoise, walk


@dataclass(frozen=True)
class Trajectory:
    """The states that a rollout went through, and how probable each move was.

    A move's log-probability can be computed again, with other weights, from `process.coefficients(t, t_prev, noise)`
    at its states.
    """

    process: Process
    moves: list[Move]
    noise: float
    states: Tensor
    """[S + 1, B, C, h, w], from noise to image."""
    stds: Tensor
    """[S, B], the standard deviation of each move."""
    log_probs: Tensor
    """[S, B], float32, the mean over C, h, w; NaN where the move added no noise."""

    @property
    def trainable(self) -> list[int]:
        """Returns the moves that a policy gradient can learn from: those that added noise."""
        return [i for i, std in enumerate(self.stds) if bool((std >= LEAST_STD).all())]


def rollout(
    output: Output, process: Process, sampler: Sampler, noise: Tensor, steps: int, step_noise: StepNoise
) -> Trajectory:
    """Returns the whole trajectory of `sample`, with log-probabilities.

    A move with a standard deviation below `LEAST_STD` adds no noise here: it goes to the mean, and isn't trained.
    """
    plan = sampler.plan(process, steps)
    states, stds, log_probs = [plan.scale * noise], [], []
    none = torch.full((len(noise),), torch.nan, device=noise.device)
    for mean, std, x in walk(output, plan, noise, step_noise, least=LEAST_STD):
        states.append(x)
        stds.append(torch.zeros_like(none) if std is None else std)
        log_probs.append(none if std is None else log_prob(x, mean, std).where(std >= LEAST_STD, none))
    return Trajectory(
        plan.process, plan.moves, plan.noise, torch.stack(states), torch.stack(stds), torch.stack(log_probs)
    )
