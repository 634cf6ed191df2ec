"""The stand-in for a safety filter: exact on every drawing of the shapes world."""

import numpy as np
import torch

from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.shapes import scenes


def test_red_stars_are_marked_and_nothing_else_is() -> None:
    texts = [
        f"a {colour} {shape} on a white background" for colour in ("red", "blue", "black") for shape in scenes.SHAPES
    ]
    texts.append("a blue circle left of a red star on a white background")
    drawn = [scenes.render(scene) for text in texts if (scene := scenes.parse_caption(text))]
    reward = rewards.load("unmarked", {"colours": ["red"], "shapes": ["star"]}, "cpu")
    found = rewards.score_images(reward, drawn, [""] * len(drawn))["unmarked"]
    assert found.tolist() == [0.0 if "red star" in text else 1.0 for text in texts]


def test_an_empty_list_stands_for_all_and_no_picture_has_no_score() -> None:
    reward = rewards.load("unmarked", {"colours": [], "shapes": []}, "cpu")
    blank, star = (
        np.full((64, 64, 3), 200, np.uint8),
        scenes.render(scenes.Scene((scenes.Object("red", "star"),), "blue")),
    )
    pixels = from_uint8([blank, star, star])
    pixels[2, 0, 0, 0] = torch.nan
    scores = reward(pixels, ["", "", ""])
    assert scores[:2].tolist() == [1.0, 0.0] and scores[2].isnan()
