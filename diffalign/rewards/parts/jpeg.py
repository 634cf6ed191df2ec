"""The size of an image's JPEG file: DDPO's benchmark of rewards that need no weights (arXiv 2305.13301, section 5.1).

Legend: B images, H W pixels.
"""

import io

import torch
from PIL import Image
from torch import Tensor

from diffalign.data.pixels import to_uint8

QUALITY = 95
"""JPEG's quality in DDPO's code; it is part of the benchmark."""
BYTES = 1000
"""Bytes of DDPO's kilobyte."""


def kilobytes(pixels: Tensor) -> Tensor:
    """Returns the sizes [B], float64, in kB of 1000 bytes, of images [B, 3, H, W] in [-1, 1] as JPEG files.

    Values beyond [-1, 1] are clamped, as in the image's file. NaN where a pixel isn't finite.
    """
    known = pixels.isfinite().flatten(1).all(dim=1).tolist()
    sizes = [
        file_size(Image.fromarray(image)) / BYTES if finite else float("nan")
        for image, finite in zip(to_uint8(pixels), known, strict=True)
    ]
    return torch.tensor(sizes, dtype=torch.float64, device=pixels.device)


def file_size(image: Image.Image) -> int:
    """Returns the bytes of an image's JPEG file by Pillow's encoder: 4:2:0, its standard Huffman tables."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell()
