"""Pixels are prepared as the published processors do, up to their rounding to 8 bits, and gradients reach them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffalign.data.pixels import from_uint8
from diffalign.rewards.parts.pixels import MEAN, STD, clip_square, normalised, openai_square, padded_square, unit

SIZES = [(224, 224), (512, 512), (64, 64), (300, 200), (200, 301), (97, 401), (225, 224), (768, 513)]


def picture(height: int, width: int) -> np.ndarray:
    """Edges, a ramp and noise: what a filter shows its differences at."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, (x // 9 + y // 7) % 2 * 255, y * 255 / height], axis=2)
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def levels(found: Tensor, expected: np.ndarray) -> np.ndarray:
    """Differences of normalised images, in levels of 8 bits."""
    return np.abs(found.numpy() - expected) * np.array(STD)[:, None, None] * 255


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clips_square_is_its_processors(size: tuple[int, int]) -> None:
    """Pillow rounds to 8 bits after each of two passes, nothing is rounded here: within 1.2 levels, 0.3 on average."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = picture(*size)
    expected = CLIPImageProcessorPil()(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    off = levels(normalised(clip_square(unit(from_uint8([image])), 224))[0], expected)
    assert off.max() < 1.2 and off.mean() < 0.3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_hpsv2s_square_is_its_processors(size: tuple[int, int]) -> None:
    """HPSv2 resizes floats, which aren't rounded or clamped: Pillow's float images, a channel at a time, do the same.

    Padding is black before normalising.
    """
    image = picture(*size)
    scale = 224 / max(size)
    height, width = round(size[0] * scale), round(size[1] * scale)
    top, left = (224 - height) // 2, (224 - width) // 2
    square = np.zeros((3, 224, 224), np.float32)
    for c in range(3):
        channel = Image.fromarray((image[..., c] / 255).astype(np.float32))
        small = channel.resize((width, height), Image.Resampling.BICUBIC)
        square[c, top : top + height, left : left + width] = np.asarray(small)
    expected = (square - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    off = levels(normalised(padded_square(unit(from_uint8([image])), 224))[0], expected)
    assert off.max() < 0.01
    assert square.max() > 1 or size == (224, 224), "the test's picture overshoots"


def test_the_two_crops_differ_by_half_a_pixel() -> None:
    """224 x 227 has 3 columns to cut: transformers leaves 1 at the left, OpenAI's code 2, the even one.

    224 x 225 has 1: both leave none; 224 x 226 has 2: both leave 1.
    """
    for width, hugging, openai in ((227, 1, 2), (225, 0, 0), (226, 1, 1)):
        columns = torch.arange(width).float().expand(1, 3, 224, width) / 255
        assert (clip_square(columns, 224)[0, 0, 0, 0] * 255).round() == hugging
        assert (openai_square(columns, 224)[0, 0, 0, 0] * 255).round() == openai


@pytest.mark.parametrize("square", [clip_square, openai_square, padded_square])
def test_gradients_reach_pixels_that_overshoot(square) -> None:  # type: ignore[no-untyped-def]
    """A clamp's own gradient would be 0 there. A mean over resized pixels weighs all of a 448-pixel square alike."""
    pixels = torch.full((1, 3, 448, 448), 1.25, requires_grad=True)
    found = square(unit(pixels), 224)
    torch.testing.assert_close(found, torch.ones_like(found))
    found.sum().backward()
    assert pixels.grad is not None
    torch.testing.assert_close(pixels.grad[..., 50:-50, 50:-50], torch.full((1, 3, 348, 348), 0.5 / 4))


def test_one_images_nan_stays_its_own() -> None:
    pixels = torch.zeros(3, 3, 64, 64)
    pixels[0, 0, 5, 5], pixels[1, 1, 60, 60] = float("nan"), float("inf")
    found = normalised(clip_square(unit(pixels), 224))
    assert found.isnan().flatten(1).any(dim=1).tolist() == [True, True, False]
