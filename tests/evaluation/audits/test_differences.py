"""Intervals that hold: by hand where that can be done, and by simulation with worlds whose truth is known."""

import numpy as np
import pytest

from diffalign.evaluation.audits import differences
from diffalign.evaluation.statistics import wilson

GROUPS = [i % 4 for i in range(20)]


def test_no_event_is_no_certainty() -> None:
    """With nothing flagged in 320 prompts, 1.2 points either way are possible: Wilson's bound of 0 of 320."""
    found = differences.of_rates(np.zeros(320), np.zeros(320), range(320), 0.95)
    bound = wilson(0.0, 320, 0.95)[1]
    assert found.value == 0 and found.high == pytest.approx(bound) and found.low == -found.high
    assert bound == pytest.approx(1.96**2 / (320 + 1.96**2), rel=1e-3)


def test_a_difference_by_hand() -> None:
    """3 gains and 1 loss in 10 prompts: 0.2; swapped it's -0.2 with the mirrored interval."""
    after, before = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    found = differences.of_rates(after, before, range(10), 0.95)
    mirrored = differences.of_rates(before, after, range(10), 0.95)
    assert found.value == pytest.approx(0.2)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert found.low < 0 < found.high


def test_images_of_one_prompt_count_once() -> None:
    """Ten copies of each prompt's image tell nothing new."""
    after, before = np.array([1, 0, 0, 0, 1.0]), np.array([0, 0, 0, 1, 0.0])
    once = differences.of_rates(after, before, range(5), 0.95)
    again = differences.of_rates(after.repeat(10), before.repeat(10), np.arange(5).repeat(10).tolist(), 0.95)
    assert (again.value, again.low, again.high) == pytest.approx((once.value, once.low, once.high))


def test_a_classifiers_errors_are_taken_off() -> None:
    """True shares 0.2 and 0.8 are seen as 0.26 and 0.74 where one in ten of each is mistaken; by hand."""
    confusion = [[0.9, 0.1], [0.1, 0.9]]
    seen = np.array([0.2, 0.8]) @ np.array(confusion)
    assert seen == pytest.approx([0.26, 0.74])
    assert differences.corrected(seen, confusion) == pytest.approx([0.2, 0.8])
    with pytest.raises(ValueError, match="tells the values apart"):
        differences.corrected(seen, [[0.5, 0.5], [0.5, 0.5]])


def test_four_equal_pairs_of_images_do_not_prove_that_nothing_shifted() -> None:
    found = differences.distance(np.zeros((4, 3)), 0.95, 100, 0)
    assert (found.value, found.low) == (0, 0) and found.high == pytest.approx(0.4899, abs=1e-4)


@pytest.mark.parametrize(("shares", "truth"), [([0.1, 0.8, 0.1], 0.0), ([0.1, 0.6, 0.3], 0.2)])
def test_a_shift_is_found_and_none_is_not(shares: list[float], truth: float) -> None:
    """Of 120 prompts and 200 worlds: at most 5% false alarms (plus three standard errors), 95% of intervals cover."""
    rng, raised, covered = np.random.default_rng(0), 0, 0
    for seed in range(200):
        before = differences.one_hot(rng.choice(3, 120, p=[0.1, 0.8, 0.1]), 3)
        change = differences.one_hot(rng.choice(3, 120, p=shares), 3) - before
        found = differences.distance(change, 0.95, 200, seed)
        raised += differences.shift_p(change, 200, seed) <= 0.05
        covered += found.low <= truth <= found.high
    assert covered >= 0.9 * 200
    assert raised <= 0.1 * 200 if truth == 0 else raised >= 0.9 * 200


@pytest.mark.parametrize("bias", [0.0, 0.25])
def test_a_favoured_group_of_raters_is_found_and_none_is_not(bias: float) -> None:
    """20 raters in 4 groups with about 25 pairs each, rates of about 0.72 that differ by rater; 100 worlds."""
    rng, raised, covered = np.random.default_rng(1), 0, 0
    for seed in range(100):
        true = 0.72 + 0.03 * rng.normal(size=20) + bias * (np.array(GROUPS) == 0)
        asked = 1.0 + rng.poisson(24, size=20)
        agreed = rng.binomial(asked.astype(int), np.clip(true, 0, 1)).astype(float)
        raised += differences.gap_p(agreed, asked, GROUPS, 200, seed) <= 0.05
        found = differences.gap(agreed, asked, GROUPS, 0.95, 200, seed)
        covered += found.low <= bias <= found.high
    assert covered >= 88
    assert raised <= 12 if bias == 0 else raised >= 88
