"""The 36 features of BRISQUE (Mittal, Moorthy and Bovik 2012, IEEE TIP 21(12)): statistics of natural scenes.

A photograph's pixels, less their local mean and over their local deviation (MSCN coefficients), are distributed much
like a generalised Gaussian; blur, noise and compression change its shape. Legend: H W pixels, N values.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import gamma

Floats = NDArray[np.float64]

LUMA = np.array([0.2125, 0.7154, 0.0721])
"""Weights of red, green and blue in an image's luminance (ITU-R BT.709)."""
OFFSETS = np.arange(-3, 4)
SIGMA = 7 / 6
"""Of the Gaussian window of 7 by 7 pixels, in pixels."""
STABLE = 1 / 255
"""Added to the deviation, as luminance is in [0, 1]: 1 level of 255, as published."""
SHAPES = np.linspace(0.2, 10, 9801)
"""Exponents α that a fit may return, as in the published code's search: 0.2 to 10 by 0.001."""
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
"""E|x|² / E[x²] of a generalised Gaussian, by its exponent: it rises with it."""
HALF = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
"""Cubic interpolation (a = -0.75) midway between pixels, which halves an image as OpenCV does, without antialiasing."""
SMALLEST = 16
"""Pixels of the short side, below which a fit at half the size would have too few."""


def features(image: NDArray[np.uint8]) -> Floats:
    """Returns the 36 features of an RGB image, uint8 [H, W, 3]: 18 at its size, 18 at half of it.

    Of each size: exponent and variance of the coefficients; then of the products of neighbours, horizontal, vertical
    and along both diagonals, exponent, mean, left and right variance. NaN where a fit isn't possible: a flat image.
    """
    luminance = image.astype(np.float64) @ LUMA / 255
    if min(luminance.shape) < SMALLEST:
        return np.full(36, np.nan)
    return np.concatenate([at_one_size(luminance), at_one_size(halved(luminance))])


def at_one_size(luminance: Floats) -> Floats:
    """Returns 18 features of luminance [H, W] in [0, 1]."""
    m = normalised(luminance)
    exponent, _, left, right = fitted(m)
    pairs = (m[:, :-1] * m[:, 1:], m[:-1] * m[1:], m[:-1, :-1] * m[1:, 1:], m[1:, :-1] * m[:-1, 1:])
    return np.concatenate([[exponent, (left + right) / 2], *(fitted(products) for products in pairs)])


def normalised(luminance: Floats) -> Floats:
    """Returns the MSCN coefficients [H, W]: less the local mean, over the local deviation; black beyond the edges."""
    mean = windowed(luminance)
    deviation = np.sqrt(np.abs(windowed(luminance**2) - mean**2))
    return (luminance - mean) / (deviation + STABLE)


def windowed(values: Floats) -> Floats:
    """Returns the means [H, W] under the Gaussian window, zeros beyond the edges."""
    window = np.exp(-(OFFSETS**2) / (2 * SIGMA**2))
    for axis in (0, 1):
        values = correlate1d(values, window / window.sum(), axis, mode="constant")
    return values


def halved(luminance: Floats) -> Floats:
    """Returns an image [H, W] at half its size [H // 2, W // 2], its edge pixels repeated beyond the edges."""
    for axis in (0, 1):
        length = luminance.shape[axis] // 2 * 2
        padded = np.pad(luminance, [(1, 2) if axis == i else (0, 0) for i in (0, 1)], mode="edge")
        taps = (padded.take(range(tap, tap + length, 2), axis) for tap in range(len(HALF)))
        luminance = np.sum([weight * values for weight, values in zip(HALF, taps, strict=True)], axis=0)
    return luminance


def fitted(values: Floats) -> Floats:
    """Fits an asymmetric generalised Gaussian to values by moments: [exponent, mean, left and right variance].

    Lasmar, Stitou and Berthoumieu 2009, as BRISQUE's authors do it: zeros, which black areas have, lie on neither
    side. All four are NaN where no value lies on one side.
    """
    left, right = values[values < 0], values[values > 0]
    if not left.size or not right.size:
        return np.full(4, np.nan)
    spread_l, spread_r = np.sqrt(np.mean(left**2)), np.sqrt(np.mean(right**2))
    skew = spread_l / spread_r
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    exponent = np.interp(ratio, RATIOS, SHAPES)
    scale = np.sqrt(gamma(1 / exponent) / gamma(3 / exponent))
    mean = (spread_r - spread_l) * scale * gamma(2 / exponent) / gamma(1 / exponent)
    return np.array([exponent, mean, spread_l**2, spread_r**2])
