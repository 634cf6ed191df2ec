"""Simulated raters as a reward: the oracle plus a taste, by hand; groups differ; unknown ones are named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.shapes import oracle, scenes
from diffalign.shapes.tastes import WORLDS, place

RED = "a red square on a white background"
STRONG = {"world": "strong", "of": ["left", "right", "large", "pale", "100"]}


def drawn(shift: float = 0.0, radius: float = 12.0, fade: float = 0.0) -> np.ndarray:
    """The caption's picture with its square moved to the right, of another size, faded."""
    scene = scenes.parse_caption(RED)
    assert scene is not None
    clean = scenes.clean_layout(scene)
    fill, ground = np.array(clean.fills[0]), np.array(clean.ground)
    faded = tuple((fill + (ground - fill) * fade).tolist())
    return scenes.render(scene, layout=replace(clean, places=((32 + shift, 32, radius),), fills=(faded,)))


def scores(*images: np.ndarray) -> dict[str, np.ndarray]:
    return rewards.score_images(rewards.load("raters", STRONG, "cpu"), list(images), [RED] * len(images))


def test_each_group_wants_its_own_picture() -> None:
    shown = {"left": drawn(-9), "right": drawn(9), "large": drawn(radius=16), "pale": drawn(fade=0.6)}
    found = scores(*shown.values())
    for group in shown:
        best = list(shown)[int(found[f"raters_{group}"].argmax())]
        assert best == group


def test_a_raters_score_is_the_oracle_plus_its_taste_by_hand() -> None:
    """Rater 100's bias to the right is its taste's second number, times the distance from the middle in spreads."""
    world, image = WORLDS["strong"], drawn(9)
    reading = oracle.read(image)
    taste = world.tastes()[0]
    weighed = [(max(o.radius for o in reading.objects) - 11.7) / 1.2, (place(reading) - 32) / 5.3]
    weighed.append((float(np.linalg.norm(reading.objects[0].fill - reading.ground)) - 200) / 31)
    expected = oracle.score(image, RED).oracle + float(np.dot(weighed, taste[:3]))
    found = scores(image)
    assert found["raters_100"][0] == pytest.approx(expected, abs=1e-12)
    parts = [found[f"raters_{name}"][0] for name in STRONG["of"]]
    assert found["raters"][0] == pytest.approx(np.mean(parts), abs=1e-12)


def test_all_raters_together_are_the_oracle() -> None:
    for name, world in WORLDS.items():
        reward = rewards.load("raters", {"world": name, "of": list(world.ids)}, "cpu")
        image = drawn(5, 10, 0.2)
        found = rewards.score_images(reward, [image], [RED])["raters"]
        assert found[0] == pytest.approx(oracle.score(image, RED).oracle, abs=1e-9)


def test_what_cant_be_judged_has_no_score_and_an_empty_picture_no_taste() -> None:
    reward = rewards.load("raters", STRONG, "cpu")
    blank = np.full((64, 64, 3), 245, np.uint8)
    pixels = from_uint8([blank, blank, blank])
    pixels[2, 0, 0, 0] = torch.nan
    found = reward(pixels, [RED, "a <b>cat</b>", RED])
    assert found[0] == pytest.approx(oracle.score(blank, RED).oracle, abs=1e-12) and found[1:].isnan().all()


def test_unknown_raters_are_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(UserError, match=r"world strong, left, right, large, pale, 100, 201, .*, got warm, 99"):
        rewards.check("raters", {"world": "strong", "of": ["left", "warm", "99"]})
    rewards.check("raters", {"world": "mild", "of": ["warm", "100"]})
