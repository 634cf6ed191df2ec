"""Bradley and Terry's model with ties and sides: values by hand, parameters that are found again, coverage."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from diffalign.evaluation import strengths
from tests.helpers.voters import simulate

WORTH = {"a": 1.0, "b": 0.0, "tie": 0.5}


def fitted(votes, *policies):
    left, right = ([policies.index(getattr(one, side)) for one in votes] for side in ("model_a", "model_b"))
    worth = np.array([WORTH[one.answer] for one in votes])
    return strengths.fit(left, right, worth, [one.prompt for one in votes], 0.95)


def test_two_policies_by_hand():
    """One on each side equally often: it wins 6, loses 3, ties 3 on the left, and the same on the right.

    Without an effect of the side, exp(s) = 6 / 3 and exp(t) = 3 / sqrt(6 * 3): s = ln 2, t = -ln(2) / 2.
    """
    results = np.array([1] * 6 + [0] * 3 + [0.5] * 3 + [0] * 6 + [1] * 3 + [0.5] * 3, np.float64)
    found = strengths.fit([1] * 12 + [0] * 12, [0] * 12 + [1] * 12, results, range(24), 0.95)
    assert found is not None and found.tie is not None
    assert found.policies[0].value == 0
    assert found.policies[1].value == pytest.approx(np.log(2), abs=1e-5)
    assert found.tie.value == pytest.approx(-np.log(2) / 2, abs=1e-5)
    assert found.position.value == pytest.approx(0, abs=1e-5)
    assert found.policies[1].low < 0 < found.policies[1].high  # 24 votes can't tell


def test_the_left_by_hand():
    """Two equal policies, the left chosen 8 times, the right 2, on either side: exp(p) = 4."""
    results = np.array([1] * 8 + [0] * 2 + [1] * 8 + [0] * 2, np.float64)
    found = strengths.fit([0] * 10 + [1] * 10, [1] * 10 + [0] * 10, results, range(20), 0.95)
    assert found is not None and found.tie is None
    assert found.position.value == pytest.approx(np.log(4), abs=1e-5)
    assert found.policies[1].value == pytest.approx(0, abs=1e-5)
    assert found.position.low > 0


def test_the_gradient_and_the_curvature():
    rng = np.random.default_rng(0)
    X = strengths.design(rng.integers(3, size=20), rng.integers(3, size=20), True)
    chosen, at = rng.integers(3, size=20), rng.standard_normal(4)
    assert check_grad(lambda p: strengths.loss(p, X, chosen)[0], lambda p: strengths.loss(p, X, chosen)[1], at) < 1e-6
    steps = 1e-5 * np.eye(4)
    slopes = [(strengths.loss(at + h, X, chosen)[1] - strengths.loss(at - h, X, chosen)[1]) / 2e-5 for h in steps]
    np.testing.assert_allclose(strengths.hessian(at, X) / 20, slopes, atol=1e-8)


def test_swapping_all_sides_turns_the_position_alone():
    votes = simulate({"x": 0.0, "y": 0.5}, prompts=40, raters=2, position=0.6)
    turned = np.array([1 - WORTH[one.answer] for one in votes])
    left, right = ([("x", "y").index(getattr(one, side)) for one in votes] for side in ("model_b", "model_a"))
    one, other = fitted(votes, "x", "y"), strengths.fit(left, right, turned, [v.prompt for v in votes], 0.95)
    assert one is not None and other is not None
    assert other.position.value == pytest.approx(-one.position.value, abs=1e-4)
    assert other.policies[1].value == pytest.approx(one.policies[1].value, abs=1e-4)


def test_intervals_cover_what_the_voters_were_simulated_with():
    """Of 150 times 360 votes on 3 policies: 600 intervals of 95%, of which so many cover as the binomial allows."""
    hits = []
    for seed in range(150):
        votes = simulate({"x": 0.0, "y": 0.8, "z": -0.4}, prompts=60, raters=2, position=0.5, tie=-0.5, seed=seed)
        found = fitted(votes, "x", "y", "z")
        assert found is not None and found.tie is not None
        truth = ((found.policies[1], 0.8), (found.policies[2], -0.4), (found.position, 0.5), (found.tie, -0.5))
        hits += [one.low <= value <= one.high for one, value in truth]
    assert 0.925 < np.mean(hits) < 0.975


def test_votes_that_repeat_their_prompts_votes_narrow_nothing():
    votes = simulate({"x": 0.0, "y": 0.5}, prompts=40, raters=1)
    once, often = fitted(votes, "x", "y"), fitted(4 * votes, "x", "y")
    assert once is not None and often is not None
    assert often.policies[1].low == pytest.approx(once.policies[1].low, abs=1e-4)


@pytest.mark.parametrize(
    ("left", "right", "results"),
    [
        ([0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]),  # one always wins
        ([0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1]),  # the left always wins
        ([0, 1, 2, 3], [1, 0, 3, 2], [1, 1, 0, 0]),  # two pairs of policies that never met
        ([0, 1], [1, 0], [0.5, 0.5]),  # nobody decided
    ],
)
def test_no_finite_estimate_is_none(left, right, results):
    assert strengths.fit(left, right, np.array(results, np.float64), range(len(left)), 0.95) is None


def test_one_prompt_has_no_interval_and_none_is_claimed():
    votes = simulate({"x": 0.0, "y": 0.5}, prompts=1, raters=30)
    assert fitted(votes, "x", "y") is None
