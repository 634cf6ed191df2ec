"""The data card by hand: agreement, position, shares, models, spreads, and what is odd."""

import numpy as np
import pytest

from diffalign.data import odd
from diffalign.data.comparisons.writer import Writer
from diffalign.evaluation import data_facts
from diffalign.evaluation.data_card import Named, Spread
from tests.helpers.comparison_rows import one, table


def test_agreement_by_hand() -> None:
    """Two of three answers for A over B, on whichever side it was; of four votes for C over D three.

    Coincidences: (2, 1) gives [[1, 1], [1, 0]], (3, 1) gives [[2, 1], [1, 0]]. Of 7 answers 3 agree; alpha is
    1 - (7 - 1) * 4 / (49 - 5^2 - 2^2) = -0.2. One answer alone, and one on another axis, say nothing.
    """
    rows = [one(1), one(2, "b", "B", "A"), one(3, "b"), one(4, "a", "C", "D", share=0.75, votes=4)]
    found = data_facts.agreed(table(*rows, one(5, "a", "E", "F"), one(6, "b", "E", "F", axis="x"), one(7, share=0.6)))
    assert (found.pairs, found.agree, found.alpha) == (2, pytest.approx(3 / 7), pytest.approx(-0.2))
    nothing = data_facts.agreed(table(one(1)))
    assert (nothing.pairs, nothing.agree, nothing.alpha) == (0, None, None)


def test_ties_and_both_bad_are_answers_of_their_own() -> None:
    counts = data_facts.answers_of_pairs(
        table(one(1, "tie"), one(2, "both_bad"), one(3, "none"), one(4, "b", "B", "A"))
    )
    assert counts.tolist() == [[1, 0, 1, 1]]


def test_position_is_of_untied_comparisons() -> None:
    """Three prompts, of which two were won by the first image: 2/3, and an interval that says how little it is."""
    rows = [one(1), one(2, "a", prompt="q"), one(3, "b", prompt="r"), one(4, "tie", prompt="s")]
    found = data_facts.position(table(*rows))
    assert (found.first, found.second, found.rate) == (2, 1, pytest.approx(2 / 3))
    assert found.ci_low is not None and found.ci_high is not None and found.ci_high - found.ci_low > 0.5
    assert data_facts.position(table()).rate is None


def test_names_are_counted_the_most_frequent_first() -> None:
    """Model m is on the second side of all three, and won one of its two untied ones; n won the other."""
    rows = table(one(1, "b", model_a="n"), one(2, "a", model_a="n", rater=None), one(3, "tie", rater="r2"))
    models = [Named(name="m", comparisons=3, share=0.5), Named(name="n", comparisons=2, share=0.5)]
    assert data_facts.models(rows) == models
    raters = data_facts.raters(rows)
    assert (raters.named, raters.unnamed, [one.name for one in raters.most]) == (2, 1, ["r1", "r2"])
    shares = table(one(1, share=0.6, votes=5, ranking="r"), one(2, share=0.5), one(3, ranking="r"), one(4, ranking="s"))
    assert data_facts.votes(shares).model_dump()["votes"] == {"least": 5, "median": 5, "p95": 5, "most": 5}
    assert data_facts.votes(shares).comparisons == 2
    assert data_facts.rankings(shares).model_dump() == {"rankings": 2, "comparisons": 3}


def test_a_spread_is_of_numbers_that_were_there() -> None:
    assert data_facts.spread(np.arange(1, 101)) == Spread(least=1, median=50, p95=95, most=100)
    assert data_facts.spread([]) is None


def test_a_card_of_a_folder(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = [one(n, prompt=f"two words {n % 4}", split=("train", "test")[n % 2]) for n in range(12)]
    with Writer(tmp_path / "out") as writer:
        for n, size in enumerate([(64, 64), (64, 48), (32, 48)]):
            writer.add_image(f"{n}", b"x", *size, "PNG" if n else "JPEG")
    counted = {"rows": 14, "rejects": {"no_label": 2}, "splits": {"train": 6, "validation": 0, "test": 6}}
    counted["split_prompts"] = {"train": 2, "validation": 0, "test": 2}
    card = data_facts.card(table(*rows), tmp_path / "out", counted)
    assert (card.rows, card.comparisons, card.rejects, card.answers["a"]) == (14, 12, {"no_label": 2}, 12)
    assert card.images.formats == {"PNG": 2, "JPEG": 1} and card.images.sizes == 3
    assert card.images.width == Spread(least=32, median=64, p95=64, most=64)
    assert (card.prompts.prompts, card.prompts.words.median) == (4, 3)
    assert len(card.examples) == 6 and {one.prompt for one in card.examples} == {"two words 0", "two words 2"}
    assert [line[:30] for line in card.odd] == [
        "the test split has 2 prompts: ",
        "the validation split has no pr",
        "one rater gave all answers: wh",
        "the first image won all 12 unt",
    ]


def test_ordinary_data_is_not_odd() -> None:
    counts = {"test_prompts": 30, "validation_prompts": 1, "comparisons": 100, "ties": 50, "raters": 2, "unnamed": 0}
    assert odd.of_data(**counts, sides=[49, 1]) == odd.of_data(**counts, sides=[9, 0]) == []
    assert odd.of_data(**counts | {"raters": 1, "unnamed": 1}, sides=[1, 1]) == []
    assert "51 of 100 comparisons are ties" in odd.of_data(**counts | {"ties": 51}, sides=[1, 1])[0]


def test_a_training_of_many_epochs_or_a_batch_of_more_than_all_is_odd() -> None:
    """100 pairs at batch 50: 40 steps are 20 epochs."""
    assert odd.of_training(100, 50, 40) == odd.of_training(50, 50, 1) == []
    (many,) = odd.of_training(100, 50, 45)
    assert "seen 22 times, more than 20" in many and "40 steps are 20 times" in many
    assert "a batch of 50 is larger than the 49 pairs" in odd.of_training(49, 50, 1)[0]
