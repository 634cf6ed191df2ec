"""Photographs that scikit-image and scikit-learn bundle, encoded in the ways that photographs of anybody's come in.

Each name says how: EXIF-rotated JPEGs (all eight orientations), grey, CMYK, palette, 16-bit, alpha, odd sizes.
"""

import io
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import pickapic

ORIENTATION = 0x0112
# How a picture is stored under each EXIF orientation: the inverse of what a viewer does, from the EXIF 2.3 table.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@cache
def _bundled(package: str, folder: str, name: str) -> Image.Image:
    with resources.as_file(resources.files(package) / folder / name) as path, Image.open(path) as image:
        image.load()
        return image


def _skimage(name: str) -> np.ndarray:
    return np.asarray(_bundled("skimage", "data", name).convert("RGB"))


def _sklearn(name: str) -> np.ndarray:
    return np.asarray(_bundled("sklearn", "datasets/images", name).convert("RGB"))


def _encode(image: Image.Image | np.ndarray, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _rotated(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return _encode(STORED[orientation](pixels), "JPEG", quality=95, exif=exif)


def _grey16(grey: np.ndarray) -> bytes:
    return _encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")


def _on_white(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    return (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


@cache
def photographs() -> tuple[tuple[str, np.ndarray, bytes], ...]:
    """(name, the picture as a person sees it uint8 [H, W, 3], encoded bytes); every picture differs in its bytes."""
    china, chelsea, coffee = _sklearn("china.jpg"), _skimage("chelsea.png"), _skimage("coffee.png")
    flower, astronaut, rocket = _sklearn("flower.jpg"), _skimage("astronaut.png"), _skimage("rocket.jpg")
    camera, coins = _skimage("camera.png"), _skimage("coins.png")
    found = [(f"exif-{n}", china if n % 2 else chelsea, _rotated(china if n % 2 else chelsea, n)) for n in STORED]
    quantized = Image.fromarray(coffee).quantize(256, dither=Image.Dither.NONE)
    logo, horse = _bundled("skimage", "data", "logo.png"), _bundled("skimage", "data", "horse.png")
    alpha = np.tile(np.linspace(0, 255, flower.shape[1]).astype(np.uint8), (len(flower), 1))
    faded = Image.fromarray(np.dstack([flower, alpha]))
    found += [
        ("grey-jpeg", camera, _encode(camera[..., 0], "JPEG", quality=95)),
        ("grey-png-16-bit", coins, _grey16(coins[..., 0])),
        ("cmyk-jpeg", flower, _encode(Image.fromarray(flower).convert("CMYK"), "JPEG", quality=95)),
        ("palette-png", coffee, _encode(quantized, "PNG")),
        ("alpha-png", _on_white(faded), _encode(faded, "PNG")),
        ("transparent-logo-png", _on_white(logo), _encode(logo, "PNG")),
        ("transparent-horse-palette-png", _on_white(horse), _encode(horse.quantize(64), "PNG")),
        ("odd-size-jpeg", astronaut[3:334, 7:506], _encode(astronaut[3:334, 7:506], "JPEG", quality=95)),
        ("tall-strip-jpeg", astronaut[:, 200:231], _encode(astronaut[:, 200:231], "JPEG", quality=95)),
        ("wide-strip-png", astronaut[60:97], _encode(astronaut[60:97], "PNG")),
        ("progressive-jpeg", coffee, _encode(coffee, "JPEG", quality=95, progressive=True)),
        ("webp", rocket, _encode(rocket, "WEBP", quality=95)),
        ("large-jpeg", _skimage("retina.jpg"), _encode(_skimage("retina.jpg"), "JPEG", quality=92)),
    ]
    return tuple(found)


def write_photo_parquet(folder: Path) -> Path:
    """Writes the photographs as comparisons, each with the next one, into `folder`/train-photos.parquet."""
    data = [encoded for _, _, encoded in photographs()]
    rows = [
        pickapic.row(i, caption=f"a photograph, {name}", jpg_0=encoded, jpg_1=data[(i + 1) % len(data)])
        for i, (name, _, encoded) in enumerate(photographs())
    ]
    return pickapic.write(folder / "train-photos.parquet", rows)
