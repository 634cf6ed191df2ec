"""Rounds: which of a prompt's images are compared by scores, and which of people's votes count."""

from collections import Counter

import pytest

from diffalign.data.votes import CHECKS
from diffalign.evaluation.rounds import compared, heard
from tests.helpers.voters import digest, vote


def test_best_is_compared_with_worst_whichever_is_shown_first() -> None:
    nan = float("nan")
    sides = Counter[int]()
    for key in range(40):
        (found,) = compared([0.2, nan, 0.9, 0.5], "best_worst", None, (key,))
        assert (found.a, found.b, found.answer) in {(2, 0, "a"), (0, 2, "b")}
        sides[found.a] += 1
    assert min(sides.values()) > 8
    assert [f.answer for f in compared([0.5, 0.5], "best_worst", None, (0,))] == ["tie"]
    assert list(compared([nan, 0.5], "best_worst", None, (0,))) == []
    assert len(list(compared([0.1, 0.2, 0.3, 0.4], "all_pairs", None, (0,)))) == 6


def test_simulated_raters_prefer_by_bradley_terry() -> None:
    """A lead of ln 3 temperatures is preferred by 3 of 4 raters: 1 / (1 + exp(-ln 3)) = 0.75."""
    answers = [next(iter(compared([0.0, 1.0986123 * 0.2], "best_worst", 0.2, (key,)))) for key in range(1500)]
    better = sum((a.answer == "a") == (a.a == 1) for a in answers) / len(answers)
    assert better == pytest.approx(0.75, abs=0.04)


def test_votes_that_count_and_why_others_do_not() -> None:
    """Of y's two checks of three failed; of x's five votes a skip, an old image, another question and a repeat."""
    images = {digest("a disc", "x"), digest("a disc", "y")}
    good = vote(rater_id="x")
    checks = [vote(rater_id="y", kind=CHECKS[0], expected="a", answer="ab"[n > 0], pair_id=f"c{n}") for n in range(3)]
    votes = [
        good,
        good,  # in two machines' files
        vote(rater_id="x", pair_id="p1", answer="skip"),
        vote(rater_id="x", pair_id="p2", image_a=digest("made anew")),
        vote(rater_id="x", question="appeal"),
        vote(rater_id="x", kind="repeat", answer="both_bad"),
        *checks,
        vote(rater_id="y"),
    ]
    found, left = heard(votes, images, "overall", repeats=False)
    assert found == [good]
    assert left == {
        "skipped": 1,
        "on images that aren't there any more": 1,
        "second answers to a pair (data.repeats: first)": 1,
        "of raters who failed the checks": 1,
    }
    found, _ = heard(votes, images, "overall", repeats=True)
    assert [one.answer for one in found] == ["a", "both_bad"]
