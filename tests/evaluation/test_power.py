"""The formula's power is the test's, by simulation; by hand; and both directions agree."""

from dataclasses import replace

import numpy as np
import pytest

from diffalign.core.errors import UserError
from diffalign.evaluation import power
from diffalign.evaluation.power import Design
from diffalign.evaluation.significance import sign_flip_p

PLAIN = Design(confidence=0.95, power=0.8, ties=0.0, images=1, alike=0.0)


def test_prompts_by_hand() -> None:
    """(1.95996 + 0.84162)^2 * (0.25 - 0.01) / 0.01 = 188.4."""
    assert power.prompts(0.6, PLAIN) == power.prompts(0.4, PLAIN) == 189


def test_ties_images_and_likeness() -> None:
    """Ties make outcomes vary less; four images that agree always are one, independent ones count four times."""
    assert power.prompts(0.6, replace(PLAIN, ties=0.2)) == 150  # 7.849 * (0.2 - 0.01) / 0.01 = 149.1
    assert power.prompts(0.6, replace(PLAIN, images=4, alike=1.0)) == 189
    assert power.prompts(0.6, replace(PLAIN, images=4)) == 48
    assert power.prompts(0.6, replace(PLAIN, tests=6)) > 189


@pytest.mark.parametrize("design", [PLAIN, replace(PLAIN, ties=0.3, images=3, alike=0.4, tests=4)])
def test_the_difference_that_prompts_see_is_the_inverse(design: Design) -> None:
    for rate in (0.52, 0.6):
        count = power.prompts(rate, design)
        assert power.difference(count, design) <= rate - 0.5 <= power.difference(count - 1, design)


@pytest.mark.parametrize(("rate", "ties"), [(0.5, 0.0), (0.96, 0.1)])
def test_an_impossible_rate_is_refused(rate: float, ties: float) -> None:
    with pytest.raises(UserError, match="expected a win rate"):
        power.prompts(rate, replace(PLAIN, ties=ties))


@pytest.mark.parametrize("design", [PLAIN, replace(PLAIN, ties=0.3, images=4, alike=0.3)])
def test_the_power_is_what_it_says(design: Design) -> None:
    """600 simulated evaluations of so many prompts: the test sees a rate of 58% in 80%, within 5 points.

    A prompt's images are all one outcome with a probability that makes them correlate by `alike`, else their own.
    """
    rng, rate, seen = np.random.default_rng(0), 0.58, 0
    count = power.prompts(rate, design)
    win = rate - design.ties / 2
    names = np.repeat(np.arange(count), design.images).tolist()
    for _ in range(600):
        own = rng.random((count, design.images))
        same = rng.random((count, 1)) < design.alike
        drawn = np.where(same, own[:, :1], own)
        results = np.where(drawn < win, 1.0, np.where(drawn < win + design.ties, 0.5, 0.0))
        p = sign_flip_p(results.ravel(), names)
        assert p is not None
        seen += p <= 0.05
    assert seen / 600 == pytest.approx(0.8, abs=0.05)


def test_each_set_of_prompts_sees_what_its_size_allows() -> None:
    """The rates that 189 prompts tell begin at 60%, by the other direction's example."""
    text = power.text(0.6, {"test": 189, "parti": 1632}, PLAIN)
    assert "60.0% is told from 50% by 189 prompts" in text
    assert "189 prompts of test (generate.prompts) tell rates from 60.0% up, or to 40.0% down" in text
    assert "1,632 prompts of parti" in text
