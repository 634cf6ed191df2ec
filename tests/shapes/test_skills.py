"""Questions by skill, answered from pictures: right ones, and ones with one thing wrong; expected answers by hand."""

import math

import numpy as np
import pytest

from diffalign.evaluation import skills as rates
from diffalign.shapes.oracle import read
from diffalign.shapes.scenes import Object, Scene, caption, parse_caption, render, sample_scene
from diffalign.shapes.skills import SKILLS, questions, shares

PAIR = "a red circle left of a blue square on a white background"


def answered(drawn: str, asked: str) -> dict[str, float]:
    """The shares that aren't missing."""
    scenes = parse_caption(drawn), parse_caption(asked)
    assert scenes[0] is not None and scenes[1] is not None
    found = shares(read(render(scenes[0])), scenes[1])
    assert tuple(found) == SKILLS
    return {skill: share for skill, share in found.items() if not math.isnan(share)}


@pytest.mark.parametrize(
    ("drawn", "asked", "expected"),
    [
        (PAIR, PAIR, {"object": 1, "colour": 1, "position": 1, "binding": 1}),
        (
            "a blue circle left of a red square on a white background",  # colours exchanged: only binding is wrong
            PAIR,
            {"object": 1, "colour": 1, "position": 0, "binding": 0},  # and the circle that is matched is another
        ),
        (
            "a red circle right of a blue square on a white background",
            PAIR,
            {"object": 1, "colour": 1, "position": 0, "binding": 1},
        ),
        (
            "a red circle left of a blue star on a white background",  # one of two shapes, one of two bindings
            PAIR,
            {"object": 0.5, "colour": 1, "position": 1, "binding": 0.5},
        ),
        (
            "a green circle on a white background",  # the square is missing: so is where it is
            PAIR,
            {"object": 0.5, "colour": 1 / 3, "position": 0, "binding": 0},
        ),
        (
            "two red stars on a white background",
            "three red stars on a white background",
            {"object": 1, "count": 0, "colour": 1},
        ),
        (
            "three red stars on a black background",
            "three red stars on a white background",
            {"object": 1, "count": 1, "colour": 0.5},
        ),
        (
            "a red star at the top of a white background",
            "a red star at the left of a white background",
            {"object": 1, "colour": 1, "position": 0},
        ),
    ],
)
def test_answers(drawn: str, asked: str, expected: dict[str, float]) -> None:
    assert answered(drawn, asked) == expected


def test_every_question_of_a_right_picture_is_answered_yes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = sample_scene(rng)
        reading = read(render(scene))
        assert all(question.answer(reading) for question in questions(scene)), caption(scene)


def test_questions_are_words_that_a_reader_understands() -> None:
    scene = Scene((Object("red", "cross"),) * 2, "white")
    assert [(q.skill, q.text) for q in questions(scene)] == [
        ("object", "Is there a cross?"),
        ("colour", "Is something red?"),
        ("colour", "Is the background white?"),
        ("count", "Are there two crosses, and nothing else?"),
    ]
    pair = parse_caption(PAIR)
    assert pair is not None
    assert [q.text for q in questions(pair) if q.skill in ("position", "binding")] == [
        "Is there a red circle?",
        "Is there a blue square?",
        "Is the red circle left of the blue square?",
    ]


def test_evaluation_knows_the_same_skills() -> None:
    assert rates.SKILLS == SKILLS
