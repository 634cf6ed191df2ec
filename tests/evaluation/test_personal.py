"""Win rates by raters' own utilities, by hand; which policies are a rater's own."""

import numpy as np

from diffalign.evaluation.personal import is_own, rates
from diffalign.evaluation.results import Learnt
from tests.evaluation.test_win_rates import judged

MEMBERS = {"left": ["100", "104"], "100": ["100"]}


def test_each_rater_judges_by_its_own_part() -> None:
    """In set a: left prefers new in 2 of 3, rater 100 in none; newer is level by both."""
    base = {"raters": np.zeros(4), "raters_left": np.ones(4), "raters_100": np.ones(4)}
    new = {"raters": np.zeros(4), "raters_left": np.array([2.0, 2.0, 0.0, 0.0]), "raters_100": np.zeros(4)}
    learnt = {name: Learnt(method="none", seed=None, families=()) for name in ("base", "newer")}
    learnt["new"] = Learnt(method="dpo", seed=0, families=("own",), raters=("100",))
    world = judged(scores={"raters": {"base": base, "new": new, "newer": base}}, bands={"raters": 0.0}, policies=learnt)
    found = {(r.policy, r.rater, r.set): r for r in rates("base", world, MEMBERS)}
    assert len(found) == 8
    row = found["new", "left", "a"]
    assert (row.wins, row.ties, row.losses, row.win_rate, row.own, row.baseline) == (2, 0, 1, 2 / 3, True, "base")
    assert (found["new", "100", "a"].losses, found["new", "100", "a"].own) == (3, True)
    assert (found["newer", "left", "a"].ties, found["newer", "left", "a"].own) == (3, False)


def test_a_policy_of_several_groups_is_nobodys_own() -> None:
    assert is_own(["100"], MEMBERS["left"]) and is_own(["104", "100"], MEMBERS["left"])
    assert not is_own(["100", "201"], MEMBERS["left"]) and not is_own([], MEMBERS["left"])


def test_without_raters_there_is_no_row() -> None:
    assert rates("base", judged(), {}) == []
