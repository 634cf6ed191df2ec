"""Comparisons seen image by image."""

import random

import pytest

from diffalign.core.errors import UserError
from diffalign.data.batches.image_labels import ImageLabel, image_labels
from tests.helpers.comparison_rows import one, table

ROWS = [
    one(1, "a"),  # A won
    one(2, "b", rater="r2"),  # and lost: B is liked too
    one(3, "b", image_a="C", image_b="A"),
    one(4, "tie", image_a="C", image_b="D"),
    one(5, "both_bad", image_a="E", image_b="C"),
    one(6, "none", image_a="F", image_b="G"),
    one(7, "a", prompt="q"),  # for another prompt A and B are other samples
    one(8, "a", image_a="H", image_b="I", split="test"),
]


def test_preferred_once_is_desirable() -> None:
    """C only lost, was called bad, and tied; E was called bad; D only tied, F and G got no answer."""
    expected = [
        ImageLabel("p", "A", True),
        ImageLabel("p", "B", True),
        ImageLabel("p", "C", False),
        ImageLabel("p", "E", False),
    ]
    expected += [ImageLabel("q", "A", True), ImageLabel("q", "B", False)]
    rows = list(ROWS)
    assert image_labels(table(*rows), "train") == expected
    random.Random(0).shuffle(rows)
    assert image_labels(table(*rows), "train") == expected


def test_by_majority() -> None:
    """A won two of three; B one of two, which says nothing; C: 0, 1/2, 0; D: 1/2; E: 0."""
    found = image_labels(table(*ROWS), "train", "majority")
    assert [(o.prompt, o.image, o.desirable) for o in found] == [
        ("p", "A", True),
        ("p", "C", False),
        ("p", "E", False),
        ("q", "A", True),
        ("q", "B", False),
    ]


def test_of_some_raters() -> None:
    assert image_labels(table(*ROWS), "train", raters=["r2"]) == [
        ImageLabel("p", "A", False),
        ImageLabel("p", "B", True),
    ]
    with pytest.raises(UserError, match="r9"):
        image_labels(table(*ROWS), "train", raters=["r9"])


def test_shares_are_votes() -> None:
    """By majority A has 6 of 8 votes and 0 of 1 on another axis, which counts as many times as 12 there."""
    rows = table(one(1, share=0.75, votes=8, axis="x"), one(2, "b", axis="y"), one(3, "both_bad", axis="z"))
    assert [o.desirable for o in image_labels(rows, "train", axes={"x": 1.0})] == [True, False]
    for weight, desirable in ((1.0, True), (12.0, False)):
        found = image_labels(rows, "train", "majority", axes={"x": 1.0, "y": weight})
        assert [o.desirable for o in found] == [desirable, not desirable]
    assert [o.desirable for o in image_labels(rows, "train", axes={"z": 1.0})] == [False, False]
