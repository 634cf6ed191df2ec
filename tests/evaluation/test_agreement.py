"""Agreement between raters: Krippendorff's published example, chance, and what can't be told."""

import numpy as np
import pytest

from diffalign.evaluation.agreement import agreement

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, with gaps.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
OPTIONS = {"resamples": 500, "confidence": 0.95, "seed": 0}


def found(rows, **options):
    told = [(value, unit) for row in rows for unit, value in enumerate(row) if value is not None]
    answers, units = zip(*told, strict=True)
    return agreement(answers, units, units, **OPTIONS | options)


def test_krippendorffs_example():
    """Nominal alpha is 0.743; the twelfth unit has one answer and doesn't count."""
    one = found(EXAMPLE)
    assert one.alpha == pytest.approx(0.743, abs=5e-4)
    assert one.units == 11
    assert one.low < one.alpha < one.high


def test_two_raters_by_hand():
    """Units aa, ab, bb: n = 6, three a and three b; observed 2, expected 36 - 18 = 18: 1 - 5 * 2 / 18."""
    one = found([["a", "a", "b"], ["a", "b", "b"]])
    assert one.alpha == pytest.approx(1 - 10 / 18)
    assert one.agree == pytest.approx(2 / 3)


def test_chance_is_about_none_and_its_interval_has_it():
    rng = np.random.default_rng(0)
    one = found(rng.integers(3, size=(4, 200)).tolist())
    assert one.low < 0 < one.high
    assert abs(one.alpha) < 0.06
    assert found(2 * rng.integers(3, size=(1, 200)).tolist()).alpha == 1


def test_what_cant_be_told_is_none():
    alone = found([[1, 2, 3]])
    assert (alone.units, alone.alpha, alone.agree) == (0, None, None)
    same = found([[1, 1, 1], [1, 1, 1]])
    assert (same.units, same.alpha, same.agree) == (3, None, 1)
    assert (found([[1], [2]]).low, found([[1], [2]]).agree) == (None, 0)
