"""The tables of docs/study.md: up to date, and by hand."""

import pytest

from studies import personal_world
from studies.claims import BASE
from tests.helpers.study_results import personal_seed, result
from tools import study_tables as tables

COURSE = {"reward_oracle": [[160, 0.4], [320, 0.5]]}


def test_the_page_is_up_to_date() -> None:
    for path, text in tables.pages().items():
        assert path.read_text() == text, f"{path.name}: python -m tools.study_tables --write"


def test_seeds_are_one_line() -> None:
    """Win rates 1 and 1/2 over the base; the proxy's mean is up by 1/4, half of the base's deviation."""
    base = result([0.0, 1.0] * 20)
    wins, ties = result([0.5, 1.5] * 20, course=COURSE), result([0.0, 1.0] * 20, course=COURSE)
    found = {BASE: base, "grpo": wins, "grpo_seed_1": ties}
    line = tables.row(["grpo", "grpo_seed_1"], found)
    assert line.startswith("| GRPO, oracle | 2 | 75.0% [")
    assert "| 0.750 | +0.50 sd | 12 | 320 | 1 |" in line
    text = tables.tables(found)
    assert line in text and "GRPO, lr 1e-30" in text.split("Not run yet")[1]
    assert ", 2 of 3 seeds" in text and "GRPO, oracle, seed 1" not in text


def test_the_gradients_norms_are_told_of_those_that_follow_one() -> None:
    found = {
        BASE: result([0.0, 1.0]),
        "draft_1": result([1.0, 2.0], end={"gradient_end": 0.5, "gradient_begin": 0.25}),
        "drtune": result([1.0, 2.0]),
    }
    told = "by the first state that trains: DRaFT-1, proxy 0.5, 0.25."
    assert told in tables.tables(found)
    assert tables.tables({BASE: found[BASE], "drtune": found["drtune"]}).count("Norm of") == 0


def test_the_usual_runs_have_a_line_each_and_their_claims() -> None:
    """The first run loses always; the second wins always, and its claim on the base holds."""
    found = {BASE: result([0.5] * 40), "sft": result([0.0] * 40), "dpo": result([1.0] * 40)}
    text = tables.usual(found)
    assert text.startswith("2 runs and 21 claims: ") and "| **0.0% [" in text and "| DPO | 100.0% [" in text
    (claim,) = [line for line in text.splitlines() if line.startswith("| Diffusion-DPO beats the model")]
    assert "| reproduced | DPO beats the base: 100.0%" in claim
    assert tables.usual({}) == "Nothing was run yet."


def test_without_results_nothing_is_claimed() -> None:
    assert tables.tables({}) == "Nothing was run yet."
    with pytest.raises(ValueError, match="unpack"):
        tables.page("a page without marks", {"rewards": ""})


def test_personal_policies_are_a_matrix_with_their_own_in_bold() -> None:
    """Left's own policy wins always in two of three seeds' files; by others all tie."""
    assert tables.personal({}) == "Nothing was run yet."
    first, second, _ = personal_world.SEEDS
    text = tables.personal(dict.fromkeys((first, second), personal_seed({"own_left": "left"})))
    assert text.startswith("Wins over the base, 2 of 3 seeds, which") and "8, 8 minutes of CPU." in text
    (line,) = [line for line in text.splitlines() if line.startswith("| `own_left`")]
    assert "known raters, 80 steps | **100.0% [91.2–100.0%]** | 50.0% [" in line
    assert "3 of 12 lines hold; the others: right's own policy beats left's own policy: 50.0%" in text
    assert "left's own policy beats the shared policy: 100.0% (91.2–100.0%), 2 of 3 seeds; right's" in text
