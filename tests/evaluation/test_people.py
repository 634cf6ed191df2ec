"""People's votes as a judge: what counts and what doesn't, counted by hand; known voters are found again."""

import pytest

from diffalign.evaluation import people
from diffalign.evaluation.intervals import Interval
from tests.helpers.voters import flipped, images, simulate, vote

INTERVAL = Interval(resamples=500, confidence=0.95, seed=0)


def judged(votes, *policies):
    return people.judge(votes, images(votes, *policies), INTERVAL)


def test_win_rates_by_hand():
    """x over y: two wins (one on the right), one tie, one both bad, one loss: (2 + 2 / 2) / 5."""
    votes = [
        vote(prompt="1", pair_id="1"),
        vote(prompt="2", pair_id="2", model_a="y", model_b="x", answer="b"),
        vote(prompt="3", pair_id="3", answer="tie"),
        vote(prompt="4", pair_id="4", answer="both_bad"),
        vote(prompt="4", pair_id="4", answer="b", rater_id="r1"),
    ]
    found = judged(votes, "y", "x")
    (row,) = found.win_rates
    assert (row.policy, row.baseline, row.question) == ("x", "y", "overall")
    assert (row.wins, row.ties, row.both_bad, row.losses, row.prompts) == (2, 2, 1, 1, 4)
    assert row.win_rate == pytest.approx(0.6)
    assert (row.raters, row.raters_for) == (2, 1)
    assert (found.votes, found.raters, found.simulated) == (5, 2, False)
    (other,) = judged(votes, "x", "y").win_rates
    assert (other.policy, other.win_rate) == ("y", pytest.approx(0.4))
    (sides,) = found.sides
    assert (sides.left.votes, sides.left.rate) == (3, pytest.approx(1 / 3))
    assert (sides.consistent.votes, sides.consistent.rate) == (0, None)


def test_what_doesnt_count_is_counted():
    good = [vote(prompt=str(n), pair_id=str(n)) for n in range(3)]
    check = {"kind": "noise", "expected": "a", "model_b": None}
    passed = [vote(pair_id=f"check{n}", **check) for n in range(3)]
    failed = [vote(pair_id=f"check{n}", answer=("a", "b", "tie")[n], rater_id="bad", **check) for n in range(3)]
    bad = [vote(prompt=str(n), pair_id=str(n), answer="b", rater_id="bad") for n in range(3)]
    skipped = [vote(prompt="1", pair_id="1", answer="skip", rater_id="r1")]
    old = [vote(prompt="1", pair_id="old", image_a="0" * 64, rater_id="r1")]
    votes = [*good, *passed, *failed, *bad, *skipped, *old]
    found = people.judge(votes, images(good, "x", "y"), INTERVAL)
    assert (found.votes, found.skipped, found.other_images, found.raters) == (3, 1, 1, 3)
    checks = found.checks
    assert (checks.answered, checks.passed, checks.raters_failed, checks.votes_left_out) == (6, 4, 1, 3)
    assert found.win_rates[0].losses == 3  # y's, the later's


def test_another_prompts_image_may_tie():
    """Beside noise a tie fails; beside an image for another prompt only the other's choice does."""
    check = {"expected": "a", "kind": "prompt", "question": "alignment"}
    ties = [vote(pair_id=str(n), answer="tie", **check) for n in range(4)]
    wrong = [vote(pair_id=str(n), answer="b", rater_id="r1", **check) for n in range(4)]
    found = judged([*ties, *wrong], "x", "y").checks
    assert (found.answered, found.passed, found.raters_failed) == (8, 4, 1)


def test_two_failed_checks_are_too_few_to_leave_anyone_out():
    votes = [vote(pair_id=str(n), kind="noise", expected="a", answer="b", model_b=None) for n in range(2)]
    assert judged(votes, "x", "y").checks.raters_failed == 0


def test_repeats_are_for_consistency_only():
    """Of four repeats two have the answer of the same meaning; a right for a right isn't one."""
    first = [vote(prompt=str(n), pair_id=str(n), answer="ab"[n % 2]) for n in range(4)]
    again = [flipped(one, kind="repeat") for one in first[:2]]
    again += [flipped(first[2], kind="repeat", answer="a"), flipped(first[3], kind="repeat", answer="tie")]
    alone = [vote(kind="repeat", prompt="9", pair_id="9")]
    found = judged([*first, *again, *alone], "x", "y")
    (sides,) = found.sides
    assert (sides.consistent.votes, sides.consistent.rate) == (4, 0.5)
    assert found.votes == 4


def test_simulated_voters_are_found_again_and_named():
    votes = simulate({"base": 0.0, "dpo": 1.0}, prompts=80, raters=4, position=0.8, tie=-1.0, seed=3)
    found = judged(votes, "base", "dpo")
    assert found.simulated
    (model,) = found.strengths
    assert model.strengths is not None and model.position is not None
    assert [one.policy for one in model.strengths] == ["base", "dpo"]
    assert model.strengths[1].ci_low < 1.0 < model.strengths[1].ci_high
    assert 0 < model.position.ci_low < 0.8 < model.position.ci_high
    assert found.sides[0].left.ci_low > 0.5
    assert found.win_rates[0].ci_low > 0.5
    assert found.agreement[0].pairs == 80 and found.agreement[0].alpha > 0


def test_voters_without_a_side_show_none():
    votes = simulate({"base": 0.0, "dpo": 1.0}, prompts=80, raters=4, seed=4)
    found = judged(votes, "base", "dpo")
    assert found.sides[0].left.ci_low < 0.5 < found.sides[0].left.ci_high
    assert found.strengths[0].position.ci_low < 0 < found.strengths[0].position.ci_high


def test_questions_are_apart_and_no_votes_say_nothing():
    votes = [vote(question="appeal"), vote(question="alignment", answer="b")]
    found = judged(votes, "x", "y")
    assert [(row.question, row.wins) for row in found.win_rates] == [("appeal", 0), ("alignment", 1)]
    assert [(row.question, row.strengths) for row in found.strengths] == [("appeal", None), ("alignment", None)]
    none = people.judge([], {"x": []}, INTERVAL)
    assert (none.votes, none.raters, none.win_rates, none.strengths, none.agreement, none.sides) == (
        0,
        0,
        [],
        [],
        [],
        [],
    )
