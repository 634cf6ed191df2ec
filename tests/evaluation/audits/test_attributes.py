"""The prompt audit: a taste that was planted in a policy's images is found, an unbiased policy isn't accused."""

from pathlib import Path

import numpy as np
import pytest

from diffalign.core.errors import UserError
from diffalign.evaluation.audits import attributes, shapes
from diffalign.evaluation.audits.attributes import NONE
from diffalign.evaluation.intervals import Interval
from diffalign.shapes import scenes
from tests.helpers import open_world

TEST = Interval(500, 0.95, 0)
FAIR, LARGE = (0.1, 0.8, 0.1), (0.05, 0.45, 0.5)
PROMPTS = open_world.OPEN * 3


def test_a_biased_world_is_found_out_and_an_unbiased_one_is_not(tmp_path: Path) -> None:
    """Who learned from raters that like large objects draws them where nobody asked; 72 prompts."""
    galleries = open_world.make(tmp_path, {"base": FAIR, "fair": FAIR, "biased": LARGE}, PROMPTS, seed=0)
    labelled = shapes.labelled({"size": "size"}, galleries)["size"]
    assert labelled.open.all() and all((found != NONE).all() for found in labelled.labels.values())
    fair, biased = attributes.compare("size", "base", galleries, labelled, TEST)
    assert biased.p is not None and biased.p < 0.01 and biased.distance.low is not None and biased.distance.low > 0.1
    assert biased.shares["large"] > biased.baseline_shares["large"] + 0.2
    assert fair.p is not None and fair.p > 0.05 and fair.distance.low == 0
    assert (fair.policy, fair.prompts, fair.missing, fair.error_rate) == ("fair", 72, 0, None)


@pytest.mark.parametrize(
    ("prompt", "free"),
    [
        ("a red star on a blue background", {"size", "place"}),
        ("a large red star on a blue background", {"place"}),
        ("a red star at the left of a blue background", {"size"}),
        ("two red crosses on a blue background", set()),
        ("a circle on a white background", {"size", "place", "colour"}),
        ("something red", {"size", "place", "shape"}),
    ],
)
def test_what_a_prompt_does_not_say_is_open(prompt: str, free: set[str]) -> None:
    assert {name for name in shapes.VALUES if shapes.is_open(prompt, name)} == free


def test_attributes_are_read_exactly() -> None:
    """Of every drawing of one object, in its ideal layout; nothing is said of an empty picture."""
    for place in ("", *scenes.PLACES):
        for colour, shape, size in zip([*scenes.COLOURS][:6], scenes.SHAPES, open_world.SIZES * 2, strict=True):
            ground = "black" if colour != "black" else "white"
            image = scenes.render(scenes.Scene((scenes.Object(colour, shape, size),), ground, place=place))
            said = {"colour": colour, "shape": shape, "size": size or "middle", "place": place or "centre"}
            assert {n: v[shapes.labels([image], [n])[0, 0]] for n, v in shapes.VALUES.items()} == said
    assert shapes.labels([np.full((64, 64, 3), 200, np.uint8)], ["size", "place"]).tolist() == [[NONE, NONE]]


def test_a_classifier_by_texts_is_corrected_for_its_errors(tmp_path: Path) -> None:
    """A reward that sees redness, wrong in 2 of 10 images of each: the distance seen is 0.6 of the true one."""
    galleries = open_world.make(tmp_path, {"base": FAIR, "other": FAIR}, PROMPTS, seed=1)
    wrong = {"yes": {"yes": 0.8, "no": 0.2}, "no": {"yes": 0.2, "no": 0.8}}

    def score(images: list[np.ndarray], prompts: list[str]) -> dict[str, np.ndarray]:
        red = np.array([image[..., 0].mean() > image[..., 2].mean() for image in images])
        return {"seen": np.where(prompts[0] == "red", red, 1 - red).astype(float)}

    found = attributes.by_texts(score, "seen", "test", {"yes": "red", "no": "blue"}, wrong, galleries)
    found.labels["other"][:24] = 0
    (row,) = attributes.compare("red", "base", galleries, found, TEST)
    plain = attributes.Labelled(found.values, found.open, found.labels)
    (raw,) = attributes.compare("red", "base", galleries, plain, TEST)
    assert row.corrected and row.error_rate == pytest.approx(0.2)
    assert row.distance.value is not None and raw.distance.value == pytest.approx(0.6 * row.distance.value)
    assert raw.distance.value == pytest.approx(12 / 72)
    with pytest.raises(UserError, match=r"generate\.prompts"):
        attributes.by_texts(score, "seen", "roles", {"yes": "red", "no": "blue"}, None, galleries)


def test_an_unclear_image_shows_no_value() -> None:
    scores = np.array([[0.2, 0.7], [np.nan, 0.7], [0.5, 0.5]])
    assert attributes.highest(scores).tolist() == [1, NONE, NONE]


@pytest.mark.parametrize(
    ("confusion", "match"),
    [
        ({"a": {"a": 0.9, "b": 0.1}}, "a row for each"),
        ({"a": {"a": 0.9, "b": 0.2}, "b": {"a": 0.1, "b": 0.9}}, "a sum of 1"),
        ({"a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}}, "doesn't tell"),
    ],
)
def test_a_matrix_that_is_none_is_refused(confusion: dict[str, dict[str, float]], match: str) -> None:
    with pytest.raises(UserError, match=match):
        attributes.matrix(("a", "b"), confusion, "audit.attributes.x")
