"""The shapes world: captions and pictures."""

import numpy as np
import pytest

from diffalign.shapes.scenes import (
    COLOURS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    caption,
    messy_layout,
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
    assert 0.3 < np.mean([bool(s.relation) for s in scenes]) < 0.37
    assert all(len({o.colour for o in s.objects} | {s.background}) == len(s.objects) + 1 for s in scenes)


def test_captions_read_as_promised():
    single = Scene((Object("red", "circle", "small"),), "blue")
    pair = Scene((Object("red", "circle"), Object("blue", "square")), "white", "left of")
    assert caption(single) == "a small red circle on a blue background"
    assert caption(pair) == "a red circle left of a blue square on a white background"
    assert parse_caption("  A small  RED circle on a blue background. ") == single


@pytest.mark.parametrize(
    "text",
    [None, 7, "", "a dog", "a red circle", "a red circle on a pink background", "a red circle left of"]
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


def test_mess_is_a_function_of_the_generator():
    scene = Scene((Object("green", "star"),), "white")
    first, again = (render(scene, layout=messy_layout(scene, np.random.default_rng(3))) for _ in range(2))
    assert (first == again).all() and (first != render(scene)).any()


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match=r"expected one of circle.*got 'blob'"):
        signed_distance("blob", np.zeros(1), np.zeros(1))
