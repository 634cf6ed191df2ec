"""Images of the page as data URIs, shrunk until each keeps within its share of the page's bytes."""

import io
from base64 import b64encode

from PIL import Image

LARGEST = 256
"""Pixels a side of an image in the page, at most."""
CARDS, STRIPS = 9_000_000, 3_000_000
"""Bytes of all images before and after together, and of all pictures of trainings, as data URIs: a page of any number
of prompts and policies stays under 15 MB.
"""
LADDER = (
    *((1024, 85), (768, 85), (512, 85), (256, 85), (192, 80), (128, 75)),
    *((96, 70), (96, 50), (64, 60), (64, 40), (48, 50), (48, 30), (32, 40)),
)
"""Pixels a side and WebP's quality, tried in this order; the last is taken whatever its bytes."""

PIXELS = 60
"""Of a byte, at most, in any but a flat image: larger rungs than that aren't tried."""


def share(of: int, images: int) -> int:
    """Returns the bytes that one image's file may have, so that as many data URIs keep within `of` bytes."""
    return of * 3 // 4 // max(images, 1)  # base64 writes 3 bytes as 4 letters


def data_uri(data: bytes, limit: int, largest: int = LARGEST) -> str:
    """Returns an image file's bytes as a data URI, `largest` px a side and `limit` bytes at most.

    As they are where they keep to both, else shrunk as WebP; equal bytes give equal URIs.
    """
    image = Image.open(io.BytesIO(data))
    kind = (image.format or "png").lower()
    if max(image.size) > largest or len(data) > limit:
        kind, data = "webp", shrunk(image.convert("RGB"), limit, largest)
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def shrunk(image: Image.Image, limit: int, largest: int) -> bytes:
    """Returns an image as WebP: the first rung of the LADDER within the limits, else the last."""
    data, fits = b"", [rung for rung in LADDER if rung[0] <= largest and rung[0] ** 2 <= PIXELS * limit]
    for side, quality in fits or LADDER[-1:]:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)  # from the rung before: as good, and faster
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=quality, method=4 if side < 128 else 2)
        data = buffer.getvalue()
        if len(data) <= limit:
            break
    return data
