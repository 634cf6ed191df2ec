"""BRISQUE's features: fits of draws whose law is known, the window and the halving by other means, what has none."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from diffalign.rewards.parts import natural_scenes


def draws(exponent: float, left: float = 1.0, right: float = 1.0, count: int = 400_000) -> np.ndarray:
    """Draws from an asymmetric generalised Gaussian with scales `left` and `right`: |x|^α follows a gamma law."""
    rng = np.random.default_rng(0)
    sizes = rng.gamma(1 / exponent, 1, count) ** (1 / exponent)
    sides = rng.random(count) < left / (left + right)  # its two halves have areas in the ratio of their scales
    return np.where(sides, -left * sizes, right * sizes)


@pytest.mark.parametrize("exponent", [0.5, 1, 2, 4])
def test_a_fit_finds_the_exponent_of_draws(exponent: float) -> None:
    found = natural_scenes.fitted(draws(exponent))
    assert found[0] == pytest.approx(exponent, rel=0.03)
    assert found[1] == pytest.approx(0, abs=0.05)
    np.testing.assert_allclose(found[2], found[3], rtol=0.05)


def test_a_normal_distribution_by_hand() -> None:
    """α = 2: E|x|² / E[x²] = 2/π; scale 1 in exp(-|x/s|²) is a variance of ½ on either side."""
    exponent, _, left, right = natural_scenes.fitted(draws(2))
    assert exponent == pytest.approx(2, rel=0.02)
    assert [left, right] == pytest.approx([0.5, 0.5], rel=0.02)


def test_a_skewed_fit_by_hand() -> None:
    """Laplace's halves (α = 1) with scales 1 and 2: second moments 2 and 8, and the mean is their scales' difference.

    The law's mean is (σr - σl) √(Γ(1)/Γ(3)) Γ(2)/Γ(1) = (√8 - √2) / √2 = 1, as ⅓(-1) + ⅔(2) is.
    """
    exponent, mean, left, right = natural_scenes.fitted(draws(1, 1, 2))
    assert exponent == pytest.approx(1, rel=0.05)
    assert [mean, left, right] == pytest.approx([1, 2, 8], rel=0.03)


def test_zeros_lie_on_neither_side() -> None:
    """As in the authors' C++: second moments are 4 and 1 of the values beside zero; zeros count in the ratio alone."""
    found = natural_scenes.fitted(np.array([-2.0, -2, 1, 1, 0, 0, 0, 0]))
    assert found[2:].tolist() == [4, 1]
    assert np.isnan(natural_scenes.fitted(np.array([-1.0, 0, 0]))).all()


def test_the_window_is_a_gaussian_of_seven_pixels() -> None:
    image = np.random.default_rng(1).random((20, 23))
    y, x = np.mgrid[-3:4, -3:4]
    kernel = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    expected = conv2d(torch.tensor(image)[None, None], torch.tensor(kernel / kernel.sum())[None, None], padding=3)[0, 0]
    np.testing.assert_allclose(natural_scenes.windowed(image), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(20, 24), (21, 33)])
def test_halving_is_bicubic_without_antialiasing(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).random(size)
    half = (size[0] // 2, size[1] // 2)
    even = torch.tensor(image[: 2 * half[0], : 2 * half[1]])[None, None]
    expected = interpolate(even, half, mode="bicubic", align_corners=False)[0, 0].numpy()
    found = natural_scenes.halved(image)
    inside = (slice(0, half[0] - 1), slice(0, half[1] - 1))  # an odd last row is a neighbour here and cut off there
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-12)
    assert found.shape == half


def test_noise_makes_36_finite_features_and_flat_or_tiny_images_none() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (48, 40, 3)).astype(np.uint8)
    found = natural_scenes.features(noise)
    assert found.shape == (36,) and np.isfinite(found).all()
    assert np.isnan(natural_scenes.features(np.full_like(noise, 90))).all()
    assert np.isnan(natural_scenes.features(noise[:15])).all()
