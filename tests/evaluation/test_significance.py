"""p values against scipy's sign test and against every sign pattern, Holm's by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from diffalign.evaluation.significance import holm, sign_flip_p


def test_with_an_image_a_prompt_it_is_the_sign_test() -> None:
    """Ties are left out, and what is missing too."""
    results = [1.0] * 14 + [0.0] * 5 + [0.5] * 6 + [np.nan]
    assert sign_flip_p(results, range(26)) == pytest.approx(stats.binomtest(14, 19).pvalue)


def test_clusters_flip_whole() -> None:
    """Sums of (outcome - 1/2) of prompts of 1 to 4 images, under each of the 2^7 patterns of signs."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(7), [1, 2, 3, 4, 2, 3, 4]).tolist()
    results = rng.choice([0, 0.5, 1, 1], len(prompts))
    sums = np.bincount(prompts, weights=results - 0.5)
    flipped = np.array([np.dot(signs, sums) for signs in product((-1, 1), repeat=7)])
    assert sign_flip_p(results, prompts) == pytest.approx(np.mean(np.abs(flipped) >= abs(sums.sum()) - 1e-9))


def test_nothing_but_ties_is_no_difference_and_nothing_judged_is_missing() -> None:
    assert sign_flip_p([0.5] * 5, range(5)) == 1
    assert sign_flip_p([np.nan] * 5, range(5)) is None


def test_thousands_of_prompts_are_no_matter() -> None:
    p = sign_flip_p(np.repeat([1.0, 0.0], [1100, 532]), range(1632))
    assert p == pytest.approx(stats.binomtest(1100, 1632).pvalue, rel=1e-6)


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2 as the one before, 0.04 likewise; a missing one counts for nothing."""
    assert holm([0.04, 0.01, None, 0.02, 0.03]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
