"""Sampling: guidance by hand, the default sampler's bits, pictures and trajectories, who decides about gradients."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diffalign.diffusion.policy_gradient import LEAST_STD, clipped_loss, log_prob
from diffalign.diffusion.process import Diffusion, Flow, Process, scaled_linear, transition
from diffalign.diffusion.rollouts import rollout
from diffalign.diffusion.samplers.sampler import load
from diffalign.diffusion.sampling import guided, sample

SD15 = {"beta_start": 0.00085, "beta_end": 0.012}
PLAIN = {"name": "ddim", "eta": 0.0, "spacing": "leading"}
SHAPE = (3, 4, 8, 8)


def network(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Any smooth function of the input, the time and the condition."""
    return torch.tanh(x_t + cond["c"].view(-1, 1, 1, 1)) * (0.5 + t.view(-1, 1, 1, 1) / 2000)


def conditions(count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {"c": torch.linspace(-1, 1, count)}, {"c": torch.zeros(count)}


def diffusion(prediction: Any = "epsilon") -> Diffusion:
    return Diffusion(scaled_linear(**SD15, T=1000), prediction)


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def plain(x: Tensor, t: Tensor) -> Tensor:
    return network(x, t, conditions(len(x))[0])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_default_sampler_with_guidance_is_diffusers_bit_for_bit(prediction: Any) -> None:
    scheduler = DDIMScheduler(
        1000,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        **SD15,
    )
    scheduler.set_timesteps(20)
    cond, uncond = conditions(3)
    x = normal(0)
    for t in scheduler.timesteps:
        times = torch.full((3,), int(t))
        out_uncond, out_cond = network(x, times, uncond), network(x, times, cond)
        x = scheduler.step(out_uncond + 4 * (out_cond - out_uncond), t, x).prev_sample
    output = guided(network, cond, uncond, 4)
    assert torch.equal(sample(output, diffusion(prediction), load(PLAIN), normal(0), 20, normal), x)


def test_guidance() -> None:
    cond, uncond = conditions(2)
    x, t = torch.ones(2, 4, 2, 2), torch.tensor([3, 3])
    a, b = network(x, t, cond), network(x, t, uncond)
    torch.testing.assert_close(guided(network, cond, uncond, 3)(x, t), b + 3 * (a - b))
    assert torch.equal(guided(network, cond, uncond, 1)(x, t), a)


CASES: list[tuple[Process, dict[str, Any]]] = [
    (diffusion(), {"name": "ddim", "eta": 1.0, "spacing": "leading"}),
    (diffusion("v_prediction"), {"name": "euler_ancestral", "spacing": "trailing"}),
    (Flow(1000, 3.0), {"name": "flow_sde", "noise": 0.7}),
    (Flow(1000, 3.0), {"name": "flow_dance", "noise": 0.3}),
    (Flow(1000, 3.0), {"name": "flow_cps", "noise": 0.8}),
]


@pytest.mark.parametrize(("process", "settings"), CASES)
def test_a_rollout_ends_where_sampling_does(process: Process, settings: dict[str, Any]) -> None:
    """With the same noise in each step; a rollout's states begin with the initial noise."""
    found = rollout(plain, process, load(settings), normal(0), 8, lambda i: normal(i + 1))
    end = sample(plain, process, load(settings), normal(0), 8, lambda i: normal(i + 1))
    assert found.states.shape == (9, *SHAPE) and len(found.moves) == 8
    torch.testing.assert_close(found.states[-1], end, rtol=0, atol=5 * LEAST_STD)  # moves that add less add nothing
    begin = found.states[0] / normal(0)
    torch.testing.assert_close(begin, begin.mean().expand_as(begin))


@pytest.mark.parametrize(("process", "settings"), CASES)
def test_at_the_rollouts_weights_every_ratio_is_one_to_the_bit(process: Process, settings: dict[str, Any]) -> None:
    """Computed again from a trajectory's states, by `transition`, in the same batch shape."""
    found = rollout(plain, process, load(settings), normal(0), 8, lambda i: normal(i + 1))
    assert found.trainable
    for i in found.trainable:
        t, t_prev = (torch.full((3,), time) for time in found.moves[i])
        x, x_prev = found.states[i], found.states[i + 1]
        mean, std = transition(found.process, plain(x, t), x, t, t_prev, found.noise)
        again = log_prob(x_prev, mean, std)
        assert torch.equal(again, found.log_probs[i])
        _, ratio = clipped_loss(again, found.log_probs[i], torch.ones(3), 1e-4)
        assert torch.equal(ratio, torch.ones(3))


def test_rows_of_one_batch_at_several_times_are_as_by_themselves() -> None:
    """A batch of rows (x_t, t, t_prev) of different steps: the values are those of each step's own batch."""
    process = diffusion()
    t, t_prev = torch.tensor([981, 501, 1]), torch.tensor([961, 481, -19])
    x, out = normal(0), normal(1)
    mean, std = transition(process, out, x, t, t_prev, 1.0)
    for i in range(3):
        own = transition(process, out, x, t[i].expand(3), t_prev[i].expand(3), 1.0)
        assert torch.equal(mean[i], own[0][i]) and std[i] == own[1][i]


def test_a_move_with_hardly_any_noise_goes_to_the_mean_and_is_not_trained() -> None:
    """CPS adds none in its last step: s = t_prev sin(noise pi / 2) = 0; of 4 steps the first three are trained."""
    found = rollout(plain, Flow(1000, 3.0), load({"name": "flow_cps", "noise": 0.8}), normal(0), 4, normal)
    assert found.trainable == [0, 1, 2]
    assert found.log_probs[:3].isfinite().all() and found.log_probs[3].isnan().all()
    t, t_prev = (torch.full((3,), time) for time in found.moves[3])
    mean, _ = transition(found.process, plain(found.states[3], t), found.states[3], t, t_prev, found.noise)
    assert torch.equal(found.states[4], mean)


def test_a_deterministic_rollout_has_no_log_probabilities() -> None:
    found = rollout(plain, diffusion(), load(PLAIN), normal(0), 4, normal)
    assert found.trainable == [] and found.log_probs.isnan().all()
    assert torch.equal(found.states[-1], sample(plain, diffusion(), load(PLAIN), normal(0), 4, normal))


@pytest.mark.parametrize("settings", [PLAIN, {"name": "dpmpp_2m", "spacing": "trailing"}, CASES[0][1]])
def test_gradients_go_through_sampling_unless_the_caller_forbids_them(settings: dict[str, Any]) -> None:
    """d x0 / d noise by backward equals the central difference, in a random direction."""
    start = normal(0).requires_grad_()

    def end(noise: Tensor) -> Tensor:
        return sample(plain, diffusion(), load(settings), noise, 4, lambda i: normal(i + 1)).mean()

    end(start).backward()
    direction, step = normal(9), 1e-2
    moved = (end(normal(0) + step * direction) - end(normal(0) - step * direction)) / (2 * step)
    assert start.grad is not None
    torch.testing.assert_close((start.grad * direction).sum(), moved, rtol=2e-2, atol=1e-4)
    with torch.no_grad():
        assert not end(start).requires_grad


def test_a_multistep_sampler_remembers_nothing_of_the_last_trajectory() -> None:
    sampler = load({"name": "dpmpp_2m", "spacing": "leading"})
    first, other, again = (sample(plain, diffusion(), sampler, normal(seed), 5, normal) for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, other)
