"""The matrix of personal policies and its verdicts: one seed, three seeds, by hand."""

import json

import pytest

from studies import personal_results
from studies import personal_world as world
from studies.claims import BASE
from tests.helpers.study_results import HOW, personal_seed

ABOUT = {"split": "test", "prompts": 40, "steps": None}
FIRST, SECOND, THIRD = world.SEEDS
WINS = personal_seed({"own_left": "left"})


def test_one_seed_has_an_interval_over_prompts_and_decides_nothing() -> None:
    """Left's own policy is better by left on each of 40 prompts; every other one is the base."""
    found = personal_results.summary({FIRST: WINS}, ABOUT, HOW)
    rows = {row["name"]: row for row in found["policies"]}
    assert rows["own_left"]["by"]["left"]["win_rate"] == 1.0
    assert rows["own_left"]["own"] == "left" and rows["shared"]["own"] is None
    others = (rows["own_left"]["by"]["right"], rows["shared"]["by"]["left"])
    assert [cell["win_rate"] for cell in others] == [0.5, 0.5]
    assert BASE not in rows and len(rows) == 14
    assert all(line["holds"] is None for claim in found["claims"] for line in claim["lines"])
    told = personal_results.text(json.loads(json.dumps(found, sort_keys=True)))  # as it's written
    assert "one of 3 seeds" in told and told.splitlines()[1].split() == list(world.GROUPS)
    (own,) = [line for line in told.splitlines() if line.startswith("own_left ")]
    assert own.split()[1:4:2] == ["100.0%", "50.0%"]
    assert "left's own policy beats the shared policy: 100.0% (91.2–100.0%), 1 of 3 seeds" in told


def test_three_seeds_decide_with_seeds_in_the_interval() -> None:
    """Where all seeds agree on all prompts Wilson's interval, as of 40 prompts; the rest are ties everywhere."""
    found = personal_results.summary(dict.fromkeys(world.SEEDS, WINS), ABOUT, HOW)
    first, second = found["claims"][:2]
    assert [line["holds"] for line in first["lines"]] == [True, None, None, None]
    assert first["verdict"] == "can't be told"
    assert [line["holds"] for line in second["lines"]].count(True) == 3
    told = personal_results.text(found)
    assert "left's own policy beats the shared policy: 100.0% (91.2–100.0%)\n" in told
    assert "can't be told: A policy that goes on" in told and "(1 of 4 lines hold)" in told


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Rates 1, 1 and 1/2: mean 5/6, s/√3 = 1/6 of two degrees of freedom, whose quantile is 4.30: down to 0.12."""
    seeds = {FIRST: WINS, SECOND: WINS, THIRD: personal_seed({})}
    cell = personal_results.contest(("own_left", "left"), (BASE, "left"), seeds, HOW)
    assert cell["win_rate"] == pytest.approx(5 / 6)
    assert cell["ci_low"] == pytest.approx(5 / 6 - 4.3027 / 6, abs=1e-3) and cell["ci_high"] == 1
    assert (cell["seeds"], cell["meant"]) == (3, 3)


def test_every_policy_is_described_and_its_steps_are_a_quick_looks() -> None:
    usual, quick = world.described(), world.described(7)
    assert [BASE, *usual] == list(world.policies({}, {"init": "model", "noise_seed": 0}, 0))
    assert "150 steps" in usual["shared"] and "7 steps" in quick["new_pale"] and "view" not in usual["view_left"]
    assert {name: world.owner(name) for name in ("own_pale", "view_pale", "new_pale", "tokens")} == {
        "own_pale": "pale",
        "view_pale": "pale",
        "new_pale": "pale",
        "tokens": None,
    }
