"""Pixels are prepared as the published processors do, up to their rounding to 8 bits, and gradients reach them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffalign.data.pixels import from_uint8
from diffalign.rewards.parts.pixels import MEAN, STD, clip_square, normalised, padded_square, unit

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
    """HPSv2's own steps on a Pillow image, written anew; the same tolerance. Padding is black before normalising."""
    image = Image.fromarray(picture(*size))
    scale = 224 / max(image.size)
    height, width = round(image.height * scale), round(image.width * scale)
    square = Image.new("RGB", (224, 224))
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((224 - width) // 2, (224 - height) // 2))
    expected = (np.asarray(square, np.float64) / 255 - MEAN) / STD
    off = levels(normalised(padded_square(unit(from_uint8([np.asarray(image)])), 224))[0], expected.transpose(2, 0, 1))
    assert off.max() < 1.2 and off.mean() < 0.3


@pytest.mark.parametrize("square", [clip_square, padded_square])
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
