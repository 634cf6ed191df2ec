"""8-bit images to float pixels and back: every level survives, and what no level stands for is rounded and clamped."""

import numpy as np
import pytest
import torch

from diffalign.data.pixels import from_uint8, to_uint8


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_every_level_survives_the_way_to_a_tensor_and_back(scale: float) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = from_uint8([levels])
    assert pixels.shape == (1, 3, 16, 16) and (float(pixels.min()), float(pixels.max())) == (-1, 1)
    found = to_uint8(pixels * scale)[0]
    assert np.array_equal(found, levels) if scale == 1 else [found[0, 0, 0], found[-1, -1, 0]] == [0, 255]


def test_pixels_are_rounded_to_the_nearest_level() -> None:
    """Half a level is 1 / 255: a little less is rounded away; gradients don't hinder."""
    levels = torch.tensor([0.0, 100.0, 254.6, 255.4, -0.4]) / 127.5 - 1
    pixels = levels.view(1, 1, 1, 5).expand(1, 3, 1, 5).requires_grad_()
    assert to_uint8(pixels)[0, 0, :, 0].tolist() == [0, 100, 255, 255, 0]
    nearly = (torch.arange(256) + 0.49) / 127.5 - 1
    assert to_uint8(nearly.view(1, 1, 1, 256).expand(1, 3, 1, 256))[0, 0, :, 0].tolist() == [*range(256)]
