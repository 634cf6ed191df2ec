"""The rule that makes pairs of comparisons, and what a pair counts."""

import itertools
import random

import pytest

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import Pair, held_out_pairs, make_pairs
from diffalign.data.batches.votes import cast
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


def test_ties_are_pairs_of_strength_a_half_if_asked():
    """By each the first image stands as the winner; by majority that with the lower name. A share of 1/2 is a tie."""
    rows = table(one(1), one(2, "tie", prompt="q"), one(3, "tie", "B", "A", prompt="r", share=0.5, votes=8))
    assert [pair.pair_id for pair in make_pairs(rows, "train")] == ["c1"]
    plain, *tied = make_pairs(rows, "train", ties=True)
    assert tied == [Pair("c2", "q", "A", "B", 0.5, 1.0), Pair("c3", "r", "B", "A", 0.5, 1.0)]
    assert make_pairs(rows, "train", "majority", ties=True)[2] == Pair("c3", "r", "A", "B", 0.5, 1.0)
    assert held_out_pairs(rows, "train", "each", []) == [plain]


def test_a_share_is_the_strength():
    rows = table(one(1, share=0.7, votes=26), one(2, "b", prompt="q", share=0.25, votes=4))
    assert make_pairs(rows, "train") == [Pair("c1", "p", "A", "B", 0.7, 1.0), Pair("c2", "q", "B", "A", 0.75, 1.0)]
    found = make_pairs(rows, "train", weights=["strength"])  # 2 s - 1: 0.4 and 0.5, over 0.45
    assert [pair.weight for pair in found] == pytest.approx([8 / 9, 10 / 9])
    with pytest.raises(UserError, match="strength expects shares of votes with rule each"):
        make_pairs(table(one(1)), "train", weights=["strength"])


def test_majority_counts_votes():
    """Of A 0.75 of 8 votes, and 0 of one: 6 of 9. As two answers it would be 0.75 and 0."""
    rows = table(one(1, share=0.75, votes=8), one(2, "a", "B", "A"))
    assert make_pairs(rows, "train", "majority") == [Pair("c1", "p", "A", "B", pytest.approx(6 / 9), 1.0)]


def test_axes_are_mixed_by_their_weights():
    """Preference counts 2, coherence 1, others nothing. By majority A has 2 of 3 votes, of 10 of its own 20 of 21."""
    rows = [one(1, axis="preference"), one(2, "b", axis="coherence"), one(3, "b", axis="style"), one(4, "b")]
    axes = {"preference": 2.0, "coherence": 1.0}
    found = make_pairs(table(*rows), "train", axes=axes)
    assert [(pair.pair_id, pair.weight) for pair in found] == [
        ("c1", pytest.approx(4 / 3)),
        ("c2", pytest.approx(2 / 3)),
    ]
    (mixed,) = make_pairs(table(*rows), "train", "majority", axes=axes)
    assert (mixed.image_w, mixed.strength, mixed.weight) == ("A", pytest.approx(2 / 3), 1.0)
    rows[0] |= {"share": 1.0, "votes": 10}
    (mixed,) = make_pairs(table(*rows), "train", "majority", axes=axes)
    assert mixed.strength == pytest.approx(20 / 21)
    with pytest.raises(UserError, match=r"pairs\.axes: .* named taste; there are coherence, preference, style"):
        make_pairs(table(*rows), "train", axes={"taste": 1.0})


def ranked(order, name, start, **more):
    """Returns the comparisons of a ranking, best first: each image with each after it."""
    found = list(itertools.combinations(order, 2))
    return [one(start + n, "a", w, l, ranking=name, **more) for n, (w, l) in enumerate(found)]


def test_a_ranking_of_k_counts_like_k_minus_1():
    """Four images make 6 pairs of 1/2 each, three make 3 of 2/3, a pair of its own counts 1: 3 + 2 + 1 over 10."""
    rows = [*ranked("ABCD", "r1", 10), *ranked("EFG", "r2", 20), one(30, prompt="q")]
    expected = [0.5 / 0.6] * 6 + [2 / 3 / 0.6] * 3 + [1 / 0.6]
    for rule in ("each", "majority"):
        found = make_pairs(table(*rows), "train", rule)
        assert [pair.weight for pair in found] == pytest.approx(expected)


def test_what_a_ranking_counts_is_of_its_pairs_alone():
    """Adjacent comparisons count 1. Without a tie two pairs of A, B, C are left, which are k - 1; axes are apart."""
    chain = [one(1, ranking="r"), one(2, "a", "B", "C", ranking="r")]
    assert [pair.weight for pair in make_pairs(table(*chain), "train")] == [1, 1]
    tied = [*chain, one(3, "tie", "A", "C", ranking="r")]
    assert [pair.weight for pair in make_pairs(table(*tied), "train")] == [1, 1]
    assert [vote.weight for vote in cast(table(*tied))] == pytest.approx([2 / 3] * 3)
    both = [*ranked("ABC", "r", 10, axis="x"), *ranked("ABC", "r", 20, axis="y")]
    assert [vote.weight for vote in cast(table(*both))] == pytest.approx([2 / 3] * 6)


def test_neither_image_of_a_tie_may_be_barred():
    rows = table(one(1, "tie", flags=["unsafe_b:nsfw"]), one(2, "tie", prompt="q", image_a="C", image_b="D"))
    found = make_pairs(rows, "train", flagged="losers", ties=True)
    assert [pair.pair_id for pair in found] == ["c2"]
