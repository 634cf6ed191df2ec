"""Photographs that packages bundle, and text, each made worse step by step."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from tools import photographs
from tools.photographs import Picture, blur, jpeg, noise

PHOTOGRAPHS = {
    "astronaut": "a woman in an orange suit",
    "chelsea": "a cat",
    "coffee": "a cup of coffee",
    "rocket": "a rocket",
    "china": "a palace",
    "flower": "a flower",
}
"""By the names that packages give them, what they show."""


def photograph(name: str) -> Picture:
    """One of PHOTOGRAPHS, uint8 [H, W, 3]."""
    return photographs.photograph(PHOTOGRAPHS[name])


def saturation(picture: Picture, factor: float) -> Picture:
    return np.asarray(ImageEnhance.Color(Image.fromarray(picture)).enhance(factor))


STEPS: dict[str, tuple[Callable[[Picture, float], Picture], tuple[float, ...]]] = {
    "jpeg": (jpeg, (30, 15, 8)),
    "noise": (noise, (10, 25, 60)),
    "blur": (blur, (0.8, 1.6, 3)),
    "saturation": (saturation, (2, 4, 8)),
}
"""Each kind of damage with its strengths, the mildest first."""


def steps(kind: str, picture: Picture) -> list[Picture]:
    """A picture, and it with more and more damage of a kind."""
    damage, strengths = STEPS[kind]
    return [picture, *(damage(picture, strength) for strength in strengths)]


def text(words: str, side: int = 256, size: int = 48) -> Picture:
    """White words on red, in the middle of a square."""
    image = Image.new("RGB", (side, side), (176, 48, 32))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(image).text((side // 2, side // 2), words, font=font, fill="white", anchor="mm")
    return np.asarray(image)
