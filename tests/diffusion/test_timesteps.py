"""How t is drawn: the densities against closed forms, strata, and the draws that results of earlier days stand on."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, norm

from diffalign.diffusion.process import Diffusion, Flow, scaled_linear
from diffalign.diffusion.rng import TRAIN, generator
from diffalign.diffusion.timesteps import Times

PROCESS = Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon")


def draws(times: Times, count: int = 2000) -> np.ndarray:
    return np.array([times.draw(generator(TRAIN, 0, 0, slot), slot) for slot in range(count)])


def logit_normal(share: np.ndarray) -> np.ndarray:
    """The density's distribution function, by scipy."""
    return norm.cdf(np.log(share / (1 - share)))


def test_uniform_draws_are_integers_of_the_range() -> None:
    found = draws(Times(PROCESS, 0.4, 0.42))
    assert set(found) == set(range(400, 420))


def test_logit_normal_draws_are_distributed_so() -> None:
    found = draws(Times(PROCESS, density="logit_normal"))
    assert kstest((found + 0.5) / 1000, logit_normal).pvalue > 0.01
    assert np.median(found) == pytest.approx(500, abs=20)


def test_a_shifted_logit_normal_is_the_shifted_draws_of_a_plain_one() -> None:
    """t of the same quantile, put through SD3's shift; a diffusion has none."""
    plain, shifted = (Times(Flow(1000, 3.0), 0.0, 1.0, density) for density in ("logit_normal", "logit_normal_shifted"))
    for u in (0.01, 0.3, 0.5, 0.99):
        t = plain.share(u)
        assert shifted.share(u) == pytest.approx(3 * t / (1 + 2 * t))
    assert shifted.share(0.5) == pytest.approx(0.75)
    assert (shifted.share(0.0), shifted.share(1.0)) == (0, 1)
    on_diffusion = [
        Times(PROCESS, 0.0, 1.0, density).share(0.2) for density in ("logit_normal", "logit_normal_shifted")
    ]
    assert on_diffusion[0] == on_diffusion[1]


def test_a_bounded_logit_normal_is_the_same_density_cut() -> None:
    found = draws(Times(PROCESS, 0.3, 0.6, "logit_normal"))
    assert (found.min(), found.max()) >= (300, 590) and found.max() < 600
    low, high = logit_normal(np.array([0.3, 0.6]))
    assert kstest((found + 0.5) / 1000, lambda x: (logit_normal(x) - low) / (high - low)).pvalue > 0.01


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_strata_share_a_step_evenly(density: str) -> None:
    """Of 10 slots each has a tenth of the density, at every step; within it t differs from step to step."""
    times = Times(PROCESS, density=density, strata=10)  # type: ignore[arg-type]
    first, second = ([times.draw(generator(TRAIN, 0, step, slot), slot) for slot in range(10)] for step in (0, 1))
    edges = [1000 * times.share(i / 10) for i in range(11)]
    for found in (first, second):
        assert all(math.floor(low) <= t <= high for low, high, t in zip(edges, edges[1:], found, strict=False))
    assert first != second


def test_shares_and_times() -> None:
    assert [PROCESS.time(share) for share in (0, 0.4, 0.9999, 1)] == [0, 400, 999, 999]
    assert Times(PROCESS, 0.2, 0.6).share(0.5) == pytest.approx(0.4)
    assert Times(PROCESS, density="logit_normal").share(norm.cdf(1)) == pytest.approx(1 / (1 + math.exp(-1)))
