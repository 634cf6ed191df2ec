"""JPEG sizes are those of DDPO's code, and those that the format gives by hand."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import jpeg


def ddpo(images: Tensor) -> np.ndarray:
    """DDPO's `jpeg_incompressibility` of images in [0, 1] (kvablack/ddpo-pytorch, rewards.py), written anew."""
    levels = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy().transpose(0, 2, 3, 1)
    buffers = [io.BytesIO() for _ in levels]
    for image, buffer in zip(levels, buffers, strict=True):
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return np.array([len(buffer.getvalue()) / 1000 for buffer in buffers])


@pytest.mark.parametrize(("side", "blocks"), [(16, 1), (32, 4)])
def test_a_grey_image_has_the_size_that_the_format_gives_by_hand(side: int, blocks: int) -> None:
    """A JPEG file of nothing but grey, byte by byte.

    Start 2, JFIF 18, two quantisation tables 2 x 69, frame 19, Huffman tables 2 x (33 + 183), scan 14: 623. In 4:2:0
    a block of 16 x 16 pixels is four of luma, each 2 bits for no change of its mean and 4 for its end, and two of
    chroma, each 2 + 2 bits: 32 bits, 4 bytes. The end is 2.
    """
    grey = from_uint8([np.full((side, side, 3), 128, np.uint8)])
    assert jpeg.kilobytes(grey).tolist() == [(623 + 4 * blocks + 2) / 1000]


def test_sizes_are_ddpos() -> None:
    images = torch.rand(3, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    assert jpeg.kilobytes(images * 2 - 1).tolist() == ddpo(images).tolist()


def test_one_wants_small_files_the_other_large_ones() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = from_uint8([np.full_like(noise, 200), noise])
    small, large = (rewards.load(f"jpeg_{name}", {}, "cpu") for name in ("compressibility", "incompressibility"))
    flat, noisy = large(pixels, ["", ""]).tolist()
    assert 0 < flat < noisy
    assert small(pixels, ["", ""]).tolist() == [-flat, -noisy]


def test_an_image_that_isnt_finite_has_no_size() -> None:
    pixels = torch.zeros(3, 3, 16, 16)
    pixels[0, 0, 0, 0], pixels[1, 2, 5, 5] = float("nan"), float("inf")
    assert jpeg.kilobytes(pixels).isnan().tolist() == [True, True, False]
