"""Images of the page keep within their share of its bytes, whatever they show."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from diffalign.generation.pipeline import png
from diffalign.reporting import thumbnails


def opened(uri: str) -> tuple[Image.Image, int]:
    """The image of a data URI, and its file's bytes."""
    kind, data = uri.removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format is not None and image.format.lower() == kind
    return image, len(base64.b64decode(data))


def noise(side: int) -> bytes:
    """The PNG of an image that can't be compressed."""
    return png(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


@pytest.mark.parametrize(("size", "kind", "shown"), [(64, "PNG", 64), (256, "PNG", 256), (512, "WEBP", 256)])
def test_large_images_are_shrunk_small_ones_stay_as_they_are(size: int, kind: str, shown: int) -> None:
    data = png(np.zeros((size, size, 3), np.uint8))
    uri = thumbnails.data_uri(data, 100_000)
    image, _ = opened(uri)
    assert (image.format, image.size) == (kind, (shown, shown))
    assert uri == thumbnails.data_uri(data, 100_000)
    if kind == "PNG":
        assert base64.b64decode(uri.split(",")[1]) == data


def test_the_limit_holds_down_to_the_last_rung() -> None:
    """Noise of 512 px; of a limit of a byte the smallest rung's image is what is left."""
    limits = (60_000, 20_000, 9_000, 2_000)
    found = [opened(thumbnails.data_uri(noise(512), limit)) for limit in limits]
    assert all(size <= limit for (_, size), limit in zip(found, limits, strict=True))
    sides = [image.width for image, _ in found]
    assert sides[0] == 256 and sides == sorted(sides, reverse=True) and sides[-1] < 128
    assert opened(thumbnails.data_uri(noise(512), 1))[0].size == (32, 32)


def test_shares_add_up() -> None:
    """4,000 images of the page's 9 MB: base64 writes 3 bytes as 4 letters."""
    assert thumbnails.share(thumbnails.CARDS, 4000) == 1687
    assert 4000 * 4 * 1687 / 3 <= thumbnails.CARDS
    assert thumbnails.share(100, 0) == 75
