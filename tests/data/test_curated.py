"""Which images curation keeps: by hand, of made-up scores and of votes."""

import math

import pytest

from diffalign.config.methods.sft import Curate
from diffalign.config.pairs import Pairs
from diffalign.data.batches import curated
from tests.helpers.comparison_rows import one, table

SCORES = {("a", "p"): 5.0, ("b", "p"): 4.0, ("c", "p"): 3.0, ("d", "q"): 2.0, ("e", "q"): 1.0, ("f", "q"): math.nan}
PAIRS = {"rule": "each", "ties": False, "raters": [], "axes": {}, "sources": {}, "flagged": "keep", "weights": []}


@pytest.mark.parametrize(
    ("keep", "per_prompt", "least", "lowest", "kept"),
    [
        (0.6, None, None, False, [("a", 1), ("b", 2), ("c", 3)]),
        (0.61, None, None, False, [("a", 1), ("b", 2), ("c", 3), ("d", 4)]),  # at least the share
        (0.6, 1, None, False, [("a", 1), ("d", 4)]),  # ranks stay those among all images
        (0.2, 1, None, False, [("a", 1)]),
        (1.0, None, 2.0, False, [("a", 1), ("b", 2), ("c", 3), ("d", 4)]),
        (0.4, None, None, True, [("e", 1), ("d", 2)]),
        (1.0, None, 9.0, False, []),
    ],
)
def test_the_top_share_is_kept(
    keep: float, per_prompt: int | None, least: float | None, lowest: bool, kept: list[tuple[str, int]]
) -> None:
    """Of five scored images; f has no score, is kept by nobody and counts in no share."""
    settings = Curate(by="votes", keep=keep, per_prompt=per_prompt, least=least)
    found = curated.chosen(SCORES, settings, "votes", lowest)
    assert [(one.image, one.rank) for one in found.kept] == kept
    assert (found.images, found.unscored) == (6, 1)


def test_what_is_kept_is_told() -> None:
    settings = Curate(by="votes", keep=0.8, per_prompt=2, least=None)
    assert curated.chosen(SCORES, settings, "votes").told() == (
        "curated by votes: 4 of 6 images kept, of 2 prompts, scores 5 to 1; without a score, and dropped: 1"
    )


def test_by_votes_is_the_expected_share() -> None:
    """A: 1 of 1, 2/3; C: 3 of 3 before it, 4/5; a tie is half a vote, both_bad none; `none` is no answer, no score."""
    rows = [
        one(1, "a"),
        one(2, "a", image_a="C", image_b="D", share=1.0, votes=3),
        one(3, "tie", image_a="E", image_b="F"),
        one(4, "both_bad", image_a="G", image_b="E"),
        one(5, "none", image_a="H", image_b="A"),
        one(6, "a", image_a="X", image_b="Y", split="test"),
    ]
    found = curated.by_votes(table(*rows), Pairs.model_validate(PAIRS))
    expected = {"A": 2 / 3, "B": 1 / 3, "C": 4 / 5, "D": 1 / 5, "E": 1.5 / 4, "F": 1.5 / 3, "G": 1 / 3, "H": math.nan}
    assert {image: score for (image, _), score in found.items()} == pytest.approx(expected, nan_ok=True)


def test_other_raters_votes_are_no_scores_and_unsafe_images_no_candidates() -> None:
    rows = [one(1), one(2, image_a="C", image_b="D", rater="r2", flags=["unsafe_a:f"])]
    of_one = curated.by_votes(table(*rows), Pairs.model_validate(PAIRS | {"raters": ["r1"]}))
    assert {image for (image, _), score in of_one.items() if not math.isnan(score)} == {"A", "B"}
    for flagged, left in (("drop", {"A", "B"}), ("losers", {"A", "B", "D"})):
        pairs = Pairs.model_validate(PAIRS | {"flagged": flagged})
        assert {image for image, _ in curated.candidates(table(*rows), pairs)} == left
