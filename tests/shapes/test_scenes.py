"""The shapes world: captions and pictures."""

import numpy as np
import pytest

from diffalign.shapes.scenes import (
    CARELESS,
    COLOURS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    Object,
    Scene,
    caption,
    clean_layout,
    flawed_layout,
    parse_caption,
    render,
    sample_scene,
    signed_distance,
)


def test_captions_parse_back_and_are_many():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(20_000)]
    captions = [caption(s) for s in scenes]
    assert [parse_caption(c) for c in captions] == scenes
    assert len(set(captions)) > 5000
    kinds = {kind: np.mean([s.kind == kind for s in scenes]) for kind in ("relation", "number", "place", "single")}
    assert kinds == pytest.approx({"relation": 1 / 3, "number": 1 / 6, "place": 1 / 8, "single": 3 / 8}, abs=0.02)
    assert all(len({*s.objects}) == len({o.colour for o in s.objects}) for s in scenes)
    assert all(s.background not in {o.colour for o in s.objects} for s in scenes)


def test_captions_read_as_promised():
    single = Scene((Object("red", "circle", "small"),), "blue")
    pair = Scene((Object("red", "circle"), Object("blue", "square")), "white", "left of")
    three = Scene((Object("red", "cross"),) * 3, "white")
    placed = Scene((Object("red", "circle", "large"),), "blue", place="top")
    assert caption(single) == "a small red circle on a blue background"
    assert caption(three) == "three red crosses on a white background"
    assert caption(placed) == "a large red circle at the top of a blue background"
    assert [parse_caption(caption(scene)) for scene in (three, placed)] == [three, placed]
    assert caption(pair) == "a red circle left of a blue square on a white background"
    assert parse_caption("  A small  RED circle on a blue background. ") == single


@pytest.mark.parametrize(
    "text",
    [None, 7, "", "a dog", "a red circle", "a red circle on a pink background", "a red circle left of"]
    + ["two red circle on a blue background", "a red circles on a blue background", "two stars on a red background"]
    + ["two red circles above a blue star on a white background", "four red circles on a white background"]
    + ["a red circle on a blue background and a dog", "a red\x00circle on a blue background", "a " * 100_000],
)
def test_other_texts_are_not_captions(text):
    assert parse_caption(text) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_cover_the_same_area(shape):
    """Area tells the radius: 2.4 square units, within 7%, by counting cells of 0.01 × 0.01."""
    axis = np.arange(-2, 2, 0.01) + 0.005
    area = (signed_distance(shape, axis[None], axis[:, None]) < 0).sum() * 1e-4
    assert area == pytest.approx(2.4, rel=0.07)


@pytest.mark.parametrize("size", [32, 64, 100])
def test_picture_has_the_colours_asked_for(size):
    picture = render(Scene((Object("red", "square", "large"),), "cyan"), size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == COLOURS["cyan"] and tuple(picture[size // 2, size // 2]) == COLOURS["red"]
    edge = size / 2 + 0.775 * SIZES["large"] * size / 64  # the square's right side
    assert tuple(picture[size // 2, int(edge) - 2]) == COLOURS["red"]
    assert tuple(picture[size // 2, int(edge) + 2]) == COLOURS["cyan"]


def test_relation_places_the_first_object():
    for relation, pixel in {"left of": (32, 17), "right of": (32, 46), "above": (17, 32), "below": (46, 32)}.items():
        scene = Scene((Object("red", "circle"), Object("blue", "circle")), "white", relation)
        assert tuple(render(scene)[pixel]) == COLOURS["red"], relation


@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("place", list(PLACES))
def test_places_are_where_they_say_and_inside(place, size):
    x, y, radius = clean_layout(Scene((Object("red", "star", size),), "white", place=place)).places[0]
    dx, dy = PLACES[place]
    assert (np.sign(x - 32), np.sign(y - 32)) == (dx, dy) and abs(x - 32) + abs(y - 32) > 6
    assert all(1.32 * radius <= v <= 64 - 1.32 * radius for v in (x, y))


@pytest.mark.parametrize("count", list(NUMBERS))
def test_as_many_as_the_number_says_stand_apart_around_the_middle(count):
    places = np.array(clean_layout(Scene((Object("red", "star"),) * count, "white")).places)
    assert len(places) == count and places[:, :2].mean(axis=0) == pytest.approx([32, 32], abs=3)
    gaps = [np.linalg.norm(a[:2] - b[:2]) - 1.32 * (a[2] + b[2]) for i, a in enumerate(places) for b in places[:i]]
    assert min(gaps) > 2


def test_flaws_are_a_function_of_the_generator_and_come_as_often_as_they_should():
    scene = Scene((Object("green", "star"), Object("red", "circle")), "white", "above")
    first, again = (flawed_layout(scene, np.random.default_rng(3), CARELESS) for _ in range(2))
    assert first == again
    drawn = [flawed_layout(scene, np.random.default_rng(n), CARELESS) for n in range(2000)]
    assert np.mean([len(layout.places) == 1 for layout in drawn]) == pytest.approx(CARELESS.missing, abs=0.04)
    assert np.mean([bool(layout.specks) for layout in drawn]) == pytest.approx(CARELESS.often, abs=0.04)
    pale = [np.linalg.norm(np.subtract(layout.fills[0], COLOURS["green"])) > 40 for layout in drawn]
    assert np.mean(pale) == pytest.approx(CARELESS.often, abs=0.04)
    assert all(0 <= v <= 64 for layout in drawn for place in layout.places for v in place[:2])


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match=r"expected one of circle.*got 'blob'"):
        signed_distance("blob", np.zeros(1), np.zeros(1))
