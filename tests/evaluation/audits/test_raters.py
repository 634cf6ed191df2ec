"""Whose preference was learned: a policy with one group's taste is found out, one that learned what all share isn't."""

from typing import Any

import numpy as np
import pytest

from diffalign.evaluation.audits import raters
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.statistics import outcomes

TEST = Interval(300, 0.95, 0)
PATTERNS = {"large": ["1??"], "warm": ["2??"], "cool": ["3??"], "contrast": ["4??"]}


def world(seed: int, pairs: int = 500) -> tuple[raters.Answers, np.ndarray, np.ndarray, np.ndarray]:
    """Raters answer by a quality that all see plus their group's own; returns quality's and the large group's rewards.

    Logistic noise as in the embedded comparisons: the quality agrees with about 75% of the answers of all groups.
    """
    rng = np.random.default_rng(seed)
    ids = [f"{100 * (1 + i % 4) + i}" for i in rng.integers(20, size=pairs)]
    quality, tastes = rng.normal(size=(pairs, 2)), rng.normal(size=(pairs, 4, 2))
    group = np.array([int(one[0]) - 1 for one in ids])
    felt = quality + 0.7 * tastes[np.arange(pairs), group]
    first = felt[:, 0] - felt[:, 1] + 0.6 * rng.logistic(size=pairs) > 0
    order = np.where(first[:, None], [[0, 1]], [[1, 0]])  # winner, loser
    answers, kept, without = raters.answers([f"p{i}" for i in range(pairs)], ids, {"100": 7}, PATTERNS)
    assert len(kept) == pairs and not without
    shared = np.take_along_axis(quality, order, 1)
    biased = np.take_along_axis(quality + 1.4 * tastes[:, 0], order, 1)
    return answers, shared, biased, order


@pytest.mark.parametrize("seed", range(3))
def test_a_biased_policy_is_found_out(seed: int) -> None:
    answers, _, biased, _ = world(seed)
    found = raters.compose("dpo", "policy", outcomes(*biased.T), answers, TEST)
    rates = {group.raters: group.rate for group in found.groups}
    assert found.p is not None and found.p <= 0.05 and max(rates, key=lambda name: rates[name] or 0) == "large"
    assert found.gap.low is not None and found.gap.low > 0


def test_a_fair_policy_is_seldom_accused() -> None:
    """60 worlds in which the quality that all share was learned: at p <= 0.05 three are expected, nine are 1 in 300."""
    raised = 0
    for seed in range(60):
        answers, shared, _, _ = world(100 + seed)
        found = raters.compose("dpo", "policy", outcomes(*shared.T), answers, Interval(100, 0.95, seed))
        raised += found.p is not None and found.p <= 0.05
    assert raised < 9


def test_counts_by_hand() -> None:
    """Two raters: one right of two with a missing reward beside, the other right once; too few for a gap's test."""
    right = np.array([1.0, 0.0, np.nan, 1.0])
    answers, kept, without = raters.answers(
        ["p", "q", "r", "s", "t"], ["100", "100", "100", "205", "9"], {"100": 3, "205": 1, "101": 5}, PATTERNS
    )
    assert kept == [0, 1, 2, 3] and without == ["9"]
    found = raters.compose("oracle", "judge", right, answers, TEST)
    said = {one.raters: (one.count, one.pairs, one.trained_pairs, one.rate) for one in [*found.groups, *found.raters]}
    expected: dict[str, Any] = {"large": (1, 2, 3, 0.5), "warm": (1, 1, 1, 1.0)}
    assert said == expected | {"100": expected["large"], "205": expected["warm"]}
    assert found.p is None and found.gap.value is None


def test_a_rate_has_evaluations_interval() -> None:
    """19 of 20 agreements are rare losses, where the percentile interval is too narrow: one figure, one interval."""
    right = np.array([0.0, *[1.0] * 19])
    answers = raters.Answers([f"p{i}" for i in range(20)], ["100"] * 20, ["large"] * 20, {})
    (group,) = raters.compose("oracle", "judge", right, answers, TEST).groups
    expected = TEST.rate(right, answers.prompts)
    assert (group.rate, group.low, group.high) == (expected.rate, expected.low, expected.high)
