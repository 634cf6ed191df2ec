"""Asks yes/no questions of a picture, by skill, and answers them exactly: the shapes world's counterpart of GenEval.

A caption's scene gives the questions; the oracle's reading of the picture gives the answers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffalign.shapes.oracle import Reading, directions, match
from diffalign.shapes.scenes import NUMBERS, Object, Scene, plural

SKILLS = ("object", "count", "colour", "position", "binding")
TURNED = 0.8
"""A direction's score above which it's right: within about 45° of what the caption says."""


@dataclass(frozen=True)
class Question:
    """A question that should be answered yes: its skill, its words, and how a picture's reading answers it."""

    skill: str
    text: str
    answer: Callable[[Reading], bool]


def questions(scene: Scene) -> list[Question]:
    """Lists the questions that a caption's scene asks of a picture of it.

    Object: is there this shape, whatever its colour. Colour: is something of this colour, whatever its shape, and is
    the background of its. Binding, where two things are named: does one object have both. Count, where the caption has
    a number: are there so many objects. Position, where it has a relation or a place: is it so, within about 45°.
    """
    things = list(dict.fromkeys((thing.colour, thing.shape) for thing in scene.objects))
    colours, shapes = (list(dict.fromkeys(column)) for column in zip(*things, strict=True))
    found = [Question("object", f"Is there a {shape}?", _has_shape(shape)) for shape in shapes]
    found += [Question("colour", f"Is something {colour}?", _has_colour(colour)) for colour in colours]
    found.append(
        Question("colour", f"Is the background {scene.background}?", lambda r: r.background == scene.background)
    )
    if len(things) > 1:
        found += [Question("binding", f"Is there a {c} {s}?", _has_thing(c, s)) for c, s in things]
    if scene.kind == "number":
        number = len(scene.objects)
        text = f"Are there {NUMBERS[number]} {plural(scene.objects[0].shape)}, and nothing else?"
        found.append(Question("count", text, lambda r: len(r.objects) == number))
    if scene.relation or scene.place:
        found.append(Question("position", _where(scene), lambda r: directions(scene, match(r, scene))[0] > TURNED))
    return found


def shares(reading: Reading, scene: Scene) -> dict[str, float]:
    """Returns the share of each skill's questions that are answered yes; NaN where the scene asks none of it."""
    answers: dict[str, list[bool]] = {skill: [] for skill in SKILLS}
    for question in questions(scene):
        answers[question.skill].append(question.answer(reading))
    return {skill: sum(found) / len(found) if found else math.nan for skill, found in answers.items()}


def _has_shape(shape: str) -> Callable[[Reading], bool]:
    return lambda reading: any(thing.shape == shape for thing in reading.objects)


def _has_colour(colour: str) -> Callable[[Reading], bool]:
    return lambda reading: any(thing.colour == colour for thing in reading.objects)


def _has_thing(colour: str, shape: str) -> Callable[[Reading], bool]:
    return lambda reading: any((thing.colour, thing.shape) == (colour, shape) for thing in reading.objects)


def _where(scene: Scene) -> str:
    """Returns the words of the question of position."""
    if scene.place:
        return f"Is the {_named(scene.objects[0])} at the {scene.place}?"
    first, second = map(_named, scene.objects)
    return f"Is the {first} {scene.relation} the {second}?"


def _named(thing: Object) -> str:
    """Returns an object's colour and shape."""
    return f"{thing.colour} {thing.shape}"
