"""The oracle on rendered pictures: right and wrong captions, flaws one at a time, odd input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffalign.shapes.oracle import is_right, read, score
from diffalign.shapes.scenes import Layout, Object, Scene, caption, clean_layout, parse_caption, render, sample_scene

SCENE = Scene((Object("red", "circle", "small"),), "blue")
PAIR = Scene((Object("red", "circle"), Object("blue", "square")), "white", "left of")


def test_reads_back_what_was_drawn():
    rng = np.random.default_rng(0)
    for _ in range(150):
        scene = sample_scene(rng)
        reading = read(render(scene))
        assert reading.background == scene.background
        assert is_right(render(scene), caption(scene))
        if len(scene.objects) == 1:
            assert reading.objects[0].size == scene.objects[0].size
            x, y, _ = clean_layout(scene).places[0]
            assert (reading.objects[0].x, reading.objects[0].y) == pytest.approx((x, y), abs=0.6)


def test_right_caption_scores_high_and_another_low():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(150)]
    right = [score(render(s), caption(s)) for s in scenes]
    assert min(r.fidelity for r in right) > 0.95 and min(r.oracle for r in right) > 0.93
    wrong = [score(render(a), caption(b)).fidelity for a, b in zip(scenes, scenes[1:], strict=False) if a != b]
    assert np.mean(wrong) < 0.2


@pytest.mark.parametrize(
    "text",
    ["a small red circle on a green background", "a small cyan circle on a blue background"]
    + ["a small red square on a blue background", "a large red circle on a blue background"]
    + ["a red circle above a cyan star on a blue background"],
)
def test_one_wrong_attribute_costs_but_isnt_everything(text):
    assert 0.1 < score(render(SCENE), text).fidelity < 0.75


@pytest.mark.parametrize(
    ("drawn", "asked"),
    [
        (Scene((Object("red", "star"),), "white", place="top"), "a red star at the bottom of a white background"),
        (Scene((Object("red", "star"),), "white", place="top"), "a red star at the left of a white background"),
        (Scene((Object("red", "star"),) * 2, "white"), "three red stars on a white background"),
        (Scene((Object("red", "star"),) * 3, "white"), "two red stars on a white background"),
        (Scene((Object("red", "star"),), "white"), "two red stars on a white background"),
        (PAIR, "a red circle right of a blue square on a white background"),
        (PAIR, "a blue circle left of a red square on a white background"),
        (SCENE, "a large red circle on a blue background"),
    ],
)
def test_a_wrong_place_number_relation_binding_or_size_is_wrong(drawn, asked):
    assert is_right(render(drawn), caption(drawn)) and not is_right(render(drawn), asked)
    assert score(render(drawn), asked).fidelity < 0.75 < 0.95 < score(render(drawn), caption(drawn)).fidelity


def test_relation_is_directed():
    turned = replace(PAIR, relation="right of")
    across = replace(PAIR, relation="above")
    scores = [score(render(PAIR), caption(s)).fidelity for s in (PAIR, turned, across)]
    assert scores[0] > 0.95 and max(scores[1:]) < 0.7


def _drawn(x=32.0, y=32.0, radius=7.5, fill=None, specks=()):
    clean = clean_layout(SCENE)
    return render(SCENE, layout=Layout(((x, y, radius),), (fill or clean.fills[0],), clean.ground, specks))


@pytest.mark.parametrize(
    "flaw",
    [{"x": 42.0, "y": 25.0}, {"fill": (140, 50, 130)}, {"specks": ((8.0, 8.0, 2.5, 245, 245, 245),)}],
    ids=["off-centre", "faded", "speck"],
)
def test_each_flaw_lowers_aesthetics(flaw):
    text = caption(SCENE)
    assert score(_drawn(**flaw), text).aesthetics < score(_drawn(), text).aesthetics - 0.02


def test_flaws_count_by_degree():
    text = caption(SCENE)
    shifted = [score(_drawn(x=32 + d), text).oracle for d in (0, 2, 5, 9, 15)]
    grown = [score(_drawn(radius=r), text).fidelity for r in (7.5, 9, 11, 14)]
    littered = [
        score(_drawn(specks=tuple((8.0 + 8 * i, 8.0, 2.0, 20, 20, 20) for i in range(n))), text).oracle
        for n in range(5)
    ]
    for values in (shifted, grown, littered):
        assert all(np.diff(values) < -0.005)


def test_an_extra_object_halves_fidelity():
    """The extra object is as large as a small one: 0.5 ** 1 of what the picture had without it."""
    picture = _drawn().copy()
    picture[4:18, 4:18] = (245, 245, 245)
    text = caption(SCENE)
    assert score(picture, text).fidelity == pytest.approx(0.5 * score(_drawn(), text).fidelity, rel=0.05)


def test_touching_objects_of_two_colours_are_two():
    layout = Layout(((25.0, 32.0, 9.0), (39.5, 32.0, 9.0)), clean_layout(PAIR).fills, clean_layout(PAIR).ground)
    reading = read(render(PAIR, layout=layout))
    assert {(o.colour, o.shape) for o in reading.objects} == {("red", "circle"), ("blue", "square")}


@pytest.mark.parametrize("size", [48, 100, 128, 512])
def test_other_sizes_are_read_too(size):
    assert score(render(SCENE, size), caption(SCENE)).fidelity > 0.9
    assert score(render(PAIR, size), caption(PAIR)).fidelity > 0.9


def test_scores_stay_in_range_on_noise_and_blanks():
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(5)]
    pictures += [np.full((64, 64, 3), v, np.uint8) for v in (0, 128, 255)]
    for picture in pictures:
        for scene in (SCENE, PAIR):
            result = score(picture, caption(scene))
            assert all(0 <= v <= 1 for v in (result.fidelity, result.aesthetics, result.oracle))
            assert result.fidelity < 0.45


def test_other_captions_score_nan():
    assert parse_caption("a dog") is None
    assert np.isnan(score(render(SCENE), "a dog").oracle)


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\], got float64 \[64, 64\]"):
        read(np.zeros((64, 64)))


def test_what_a_person_sees_in_the_models_own_pictures():
    """Ten samples of the embedded model, with what a person who looked at them saw, from the left.

    In the last one they differ: a crooked, blurred cross counts as a diamond.
    """
    sheet = np.asarray(Image.open(Path(__file__).parent / "model-samples.png"))
    pictures = [sheet[:, x : x + 64] for x in range(0, 640, 64)]
    seen = [
        ("blue", "green triangle"), ("green", "cyan circle"), ("red", "green cross, black star"),
        ("red", "cyan triangle, cyan triangle, cyan triangle"), ("cyan", "green square"), ("black", "white circle"),
        ("blue", "black square"), ("white", "red triangle"), ("cyan", "green triangle"), ("black", "white cross"),
    ]  # fmt: skip
    found = []
    for picture in pictures:
        reading = read(picture)
        objects = [f"{o.colour} {o.shape}" for o in sorted(reading.objects, key=lambda o: o.x)]
        found.append((reading.background, ", ".join(objects)))
    assert found == [*seen[:-1], ("black", "white diamond")]
    assert score(pictures[4], "a green square on a cyan background").oracle > 0.8
    left, right = (
        score(pictures[2], f"a green cross {relation} a black star on a red background").fidelity
        for relation in ("left of", "right of")
    )
    assert left > 0.6 and right < 0.7 * left
    three, two = (score(pictures[3], f"{n} cyan triangles on a red background").fidelity for n in ("three", "two"))
    assert three > 0.6 and two < 0.7 * three
    missing = score(pictures[5], "a white circle right of a red square on a black background")
    assert missing.fidelity < 0.3
    off_centre = score(pictures[7], "a red triangle on a white background").aesthetics
    assert off_centre < score(pictures[8], "a large green triangle on a cyan background").aesthetics
