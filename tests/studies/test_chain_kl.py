"""The divergence of two policies' chains: by hand, and as the mean difference of log-probabilities."""

import pytest
import torch

from diffalign.diffusion.policy_gradient import log_prob
from diffalign.diffusion.process import transition
from diffalign.diffusion.rollouts import Trajectory, rollout
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.diffusion.sampling import Output
from studies.chain_kl import SAMPLER, STEPS, divergence
from tests.helpers.memory_rollouts import PROCESSES

SHAPE = (4000, 1, 1, 1)


def shifted(by: float) -> Output:
    """A network whose output is a little of the state, plus a constant."""
    return lambda x, t: 0.1 * x + by


def chain(output: Output) -> Trajectory:
    def added(step: int) -> torch.Tensor:
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1 + step))

    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return rollout(output, PROCESSES["diffusion"], samplers.load(SAMPLER), noise, STEPS, added)


def test_a_policy_is_nowhere_from_itself() -> None:
    assert divergence(shifted(0.1), shifted(0.1), chain(shifted(0.1))) == 0


def test_constant_differences_by_hand() -> None:
    """Outputs differ by 0.05 in each of 1 number: the sum over moves of (b 0.05 / s)^2 / 2."""
    made = chain(shifted(0.05))
    times = torch.tensor(made.moves)[made.trainable]
    _, b, s = made.process.coefficients(*times.unbind(1), made.noise)
    by_hand = ((b * 0.05 / s) ** 2 / 2).sum()
    assert divergence(shifted(0.05), shifted(0.0), made) == pytest.approx(float(by_hand), rel=1e-4)


def test_it_is_the_mean_difference_of_log_probabilities() -> None:
    """Over 4,000 chains of the policy, within 4 standard errors."""
    own, base = shifted(0.05), shifted(0.0)
    made = chain(own)
    difference = torch.zeros(SHAPE[0])
    for i in made.trainable:
        x, (t, t_prev) = made.states[i], (torch.full(SHAPE[:1], time) for time in made.moves[i])
        mean, std = transition(made.process, base(x, t), x, t, t_prev, made.noise)
        difference += made.log_probs[i] - log_prob(made.states[i + 1], mean, std)
    error = float(difference.std()) / SHAPE[0] ** 0.5
    assert abs(float(difference.mean()) - divergence(own, base, made)) < 4 * error
