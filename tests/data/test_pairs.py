"""The rule that makes pairs of comparisons, and what a pair counts."""

import random

import pytest

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair, make_pairs
from tests.helpers.comparison_rows import one, table


def test_each_untied_answer_is_a_pair():
    rows = [
        one(3, "b", prompt="q"),
        one(1),
        one(2, "tie"),
        one(4, "both_bad"),
        one(5, "none"),
        one(6, split="test"),
        one(7, image_a="B", image_b="A"),
    ]
    expected = [
        Pair("c1", "p", "A", "B", 1.0, 1.0),
        Pair("c3", "q", "B", "A", 1.0, 1.0),
        Pair("c7", "p", "B", "A", 1.0, 1.0),
    ]
    assert make_pairs(table(*rows), "train") == expected
    random.Random(0).shuffle(rows)
    assert make_pairs(table(*rows), "train") == expected
    assert [pair.pair_id for pair in make_pairs(table(*rows), "test")] == ["c6"]
    assert make_pairs(table(*rows), "validation") == make_pairs(table(), "train") == []


def test_raters_are_filtered():
    rows = table(one(1, rater="r1"), one(2, rater="r2"), one(3, rater=None), one(4, rater="r3", split="test"))
    assert [p.pair_id for p in make_pairs(rows, "train", raters=["r2"])] == ["c2"]
    assert [p.pair_id for p in make_pairs(rows, "train", raters=["r1", "r2"])] == ["c1", "c2"]
    assert make_pairs(rows, "train", raters=["r3"]) == []
    assert [p.pair_id for p in make_pairs(rows, "train")] == ["c1", "c2", "c3"]
    with pytest.raises(UserError, match="r9"):
        make_pairs(rows, "train", raters=["r1", "r9"])


def test_majority_counts_the_votes_on_two_images():
    """Of A: 1 (c1), 0 on swapped sides (c2: A lost as b), tie ½ (c3), 1 (c4 as b): 2.5 of 4, so 0.625."""
    votes = [one(1, "a"), one(2, "a", "B", "A"), one(3, "tie"), one(4, "b", "B", "A")]
    assert make_pairs(table(*votes), "train", "majority") == [Pair("c1", "p", "A", "B", 0.625, 1.0)]
    swapped = [{**vote, "image_a": vote["image_b"], "image_b": vote["image_a"]} for vote in votes]
    assert make_pairs(table(*swapped), "train", "majority") == [Pair("c1", "p", "B", "A", 0.625, 1.0)]


def test_majority_leaves_out_what_has_none():
    rows = [
        one(1, "a"),
        one(2, "b"),  # one vote each
        one(3, "tie", prompt="q"),  # nothing but a tie
        one(4, "both_bad", prompt="r"),
        one(5, "none", prompt="r"),  # no votes
        one(6, "b", prompt="s"),
        one(7, "a", prompt="s", split="test"),  # another split's vote doesn't count
        one(8, "a", prompt="t", rater="x"),
        one(9, "b", prompt="t"),
    ]
    assert make_pairs(table(*rows), "train", "majority") == [Pair("c6", "s", "B", "A", 1.0, 1.0)]
    only_x = make_pairs(table(*rows), "train", "majority", raters=["x"])
    assert only_x == [Pair("c8", "t", "A", "B", 1.0, 1.0)]


def test_majority_of_single_votes_is_each():
    rng = random.Random(0)
    rows = [one(n, rng.choice(["a", "b", "tie"]), f"i{n}", f"j{n}", prompt=f"p{n % 7}") for n in range(100)]
    assert make_pairs(table(*rows), "train", "majority") == make_pairs(table(*rows), "train")


def test_weights_by_hand():
    """Prompt p has two pairs, q one: 1/2, 1/2, 1. Rater r1 has two, r2 one: 1/2, 1, 1/2; both: 1/4, 1/2, 1/2."""
    rows = table(one(1), one(2, rater="r2"), one(3, "b", prompt="q"), one(4, "tie", prompt="q"), one(5, split="test"))

    def weights(*by):
        found = make_pairs(rows, "train", weights=by)
        assert [pair.pair_id for pair in found] == ["c1", "c2", "c3"]
        return [pair.weight for pair in found]

    assert weights() == [1, 1, 1]
    assert weights("prompt") == pytest.approx([0.75, 0.75, 1.5])  # divided by their mean, 2/3
    assert weights("rater") == pytest.approx([0.75, 1.5, 0.75])
    assert weights("rater", "prompt") == weights("prompt", "rater") == pytest.approx([0.6, 1.2, 1.2])  # mean 5/12


def test_weights_by_strength():
    """Three votes to one: 2 * 0.75 - 1 = 1/2; one vote: 1. The mean is 3/4; the strengths stay."""
    votes = [*(one(n, "a") for n in (1, 2, 3)), one(4, "b"), one(5, prompt="q")]
    found = make_pairs(table(*votes), "train", "majority", weights=["strength"])
    assert [(pair.strength, pair.weight) for pair in found] == [(0.75, pytest.approx(2 / 3)), (1, pytest.approx(4 / 3))]


def test_weights_are_over_the_pairs_that_are_used():
    """Without r2, p has one pair as q has: nobody is weighed up or down."""
    rows = table(one(1), one(2, rater="r2"), one(3, prompt="q"))
    assert [p.weight for p in make_pairs(rows, "train", raters=["r1"], weights=["prompt"])] == [1, 1]
    assert make_pairs(rows, "test", weights=["prompt"]) == []


def test_a_weight_by_raters_needs_raters():
    rows = table(one(1), one(2, rater=None), one(3, "tie", rater=None))
    with pytest.raises(UserError, match=r"rater for every answer, 1 of 2 have none\. Take rater out of pairs\.weights"):
        make_pairs(rows, "train", weights=["rater"])
    assert len(make_pairs(rows, "train", raters=["r1"], weights=["rater"])) == 1
