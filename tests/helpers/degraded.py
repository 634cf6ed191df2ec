"""Photographs that packages bundle, and text, each made worse step by step."""

import io
from collections.abc import Callable
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Picture = np.ndarray
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data", "astronaut.png"),
    "chelsea": ("skimage", "data", "chelsea.png"),
    "coffee": ("skimage", "data", "coffee.png"),
    "rocket": ("skimage", "data", "rocket.jpg"),
    "china": ("sklearn", "datasets/images", "china.jpg"),
    "flower": ("sklearn", "datasets/images", "flower.jpg"),
}


def photograph(name: str) -> Picture:
    """One of PHOTOGRAPHS, uint8 [H, W, 3]."""
    package, folder, file = PHOTOGRAPHS[name]
    with resources.as_file(resources.files(package) / folder / file) as path, Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def jpeg(picture: Picture, quality: float) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def noise(picture: Picture, levels: float) -> Picture:
    drawn = np.random.default_rng(0).normal(0, levels, picture.shape)
    return np.clip(picture + drawn, 0, 255).round().astype(np.uint8)


def blur(picture: Picture, radius: float) -> Picture:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


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
