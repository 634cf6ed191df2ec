"""Preferences of comparisons: shares of votes, ties, and what a prompt counts."""

import random

import pytest

from diffalign.data.batches.preferences import Preference, make_preferences
from tests.helpers.comparison_rows import one, table


def test_each_answer_is_a_preference_and_ties_are_halves() -> None:
    rows = [
        one(3, "b", prompt="q"),
        one(1),
        one(2, "tie"),
        one(4, "both_bad"),
        one(5, "none"),
        one(6, split="test"),
        one(7, split="validation"),
    ]
    expected = [
        Preference("p", "A", "B", 1.0, 1.0),
        Preference("p", "A", "B", 0.5, 1.0),
        Preference("q", "A", "B", 0.0, 1.0),
    ]
    assert make_preferences(table(*rows), "train") == expected
    random.Random(0).shuffle(rows)
    assert make_preferences(table(*rows), "train") == expected
    assert make_preferences(table(*rows), "train", ties=False) == [expected[0], expected[2]]
    assert make_preferences(table(), "train") == []


def test_majority_is_the_share_of_votes() -> None:
    """For A: 1, 0 (c2: it lost as b), 1/2, 1: 2.5 of 4. One vote each for q is a tie."""
    rows = [one(1, "a"), one(2, "a", "B", "A"), one(3, "tie"), one(4, "b", "B", "A")]
    rows += [one(5, "a", prompt="q"), one(6, "b", prompt="q")]
    found = make_preferences(table(*rows), "train", "majority")
    assert found == [Preference("p", "A", "B", 0.625, 1.0), Preference("q", "A", "B", 0.5, 1.0)]
    assert make_preferences(table(*rows), "train", "majority", ties=False) == found[:1]


def test_prompts_count_the_same_and_the_mean_is_one() -> None:
    """Three preferences of p and one of q: 1/3 and 1, over the mean 2/4: 2/3 and 2."""
    rows = [one(1), one(2, "b"), one(3, "tie"), one(4, prompt="q")]
    found = [one.weight for one in make_preferences(table(*rows), "train", by_prompt=True)]
    assert found == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_raters_are_chosen() -> None:
    rows = table(one(1, rater="r1"), one(2, "b", rater="r2"))
    assert [one.share for one in make_preferences(rows, "train", raters=["r2"])] == [0.0]


def test_shares_and_axes() -> None:
    """B, shown first, has 0.75 of 8 votes on x; y counts half of it."""
    rows = table(one(1, "a", "B", "A", share=0.75, votes=8, axis="x"), one(2, "b", axis="y"), one(3, axis="z"))
    found = make_preferences(rows, "train", axes={"x": 1.0, "y": 0.5})
    assert [(o.first, o.share, o.weight) for o in found] == [
        ("B", 0.75, pytest.approx(4 / 3)),
        ("A", 0.0, pytest.approx(2 / 3)),
    ]
    (mixed,) = make_preferences(rows, "train", "majority", axes={"x": 1.0, "y": 0.5})
    assert (mixed.first, mixed.share) == ("A", pytest.approx(2 / 8.5))
