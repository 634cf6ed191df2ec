"""Figures of images that need no judge: saturation, contrast, sharpness, tint, and features for distances of images.

Pure functions of uint8 RGB images [H, W, 3]. Legend: N images, D features.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffalign.evaluation import imagenet
from diffalign.evaluation.bootstrap import Floats

Pixels = NDArray[np.uint8]
Features = Callable[[Sequence[Pixels]], Floats]
"""Returns features [N, D] of images; distances between them are Euclidean."""
CHUNK = 32
"""Images whose features are computed at a time."""
SIDE = 16
"""Cells a side that an image is averaged over."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in an image's brightness (ITU-R BT.601)."""
LEAST = 1e-8
"""Added to the Laplacian's variance, so that a flat image has a logarithm."""


@dataclass(frozen=True)
class Looks:
    """Figures [N] and features [N, D] of some images."""

    saturation: Floats
    """The mean over pixels of HSV's saturation, 0 to 1."""
    contrast: Floats
    """The standard deviation over pixels of the brightness, 0 to 1/2."""
    sharpness: Floats
    """The logarithm of the variance of the brightness' Laplacian."""
    tint: Floats
    """The cast [N, 3] of an image: its red, green and blue less its grey, in levels of 255, the median over pixels."""
    features: Floats


def measure(images: Iterable[Pixels], features: Features) -> Looks:
    """Measures images as they come, a few at a time: they may not fit into memory together."""
    figures: list[tuple[float, float, float]] = []
    tints: list[Floats] = []

    def noted() -> Iterator[Pixels]:
        for image in images:
            figures.append(of_image(image))
            tints.append(tint(image))
            yield image

    found = features_of(noted(), features)
    table = np.array(figures).reshape(-1, 3)
    return Looks(table[:, 0], table[:, 1], table[:, 2], np.array(tints).reshape(-1, 3), found)


def of_image(image: Pixels) -> tuple[float, float, float]:
    """Returns an image's saturation, contrast and sharpness."""
    values = image.astype(np.float64) / 255
    most, least = values.max(axis=2), values.min(axis=2)
    saturation = np.where(most > 0, (most - least) / np.where(most > 0, most, 1), 0)
    luma = values @ LUMA
    inner = luma[1:-1, 1:-1]
    laplacian = 4 * inner - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    return float(saturation.mean()), float(luma.std()), float(np.log(laplacian.var() + LEAST))


def tint(image: Pixels) -> Floats:
    """Returns how far red, green and blue stand from a pixel's grey [3], in levels of 255, the median over pixels.

    The median is the background's where most of an image is background: what a few vivid objects do isn't in it.
    """
    values = image.astype(np.float64)
    return np.asarray(np.median((values - values.mean(axis=2, keepdims=True)).reshape(-1, 3), axis=0))


def pixel_features(images: Sequence[Pixels]) -> Floats:
    """Returns images averaged over 16 × 16 cells, in [0, 1]: [N, 768]. Blind to meaning, but needs no network."""
    size = (SIDE, SIDE)
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), np.float64) for image in images]
    return np.stack(small).reshape(len(images), -1) / 255


def features_of(images: Iterable[Pixels], features: Features) -> Floats:
    """Returns the features [N, D] of images as they come, a few at a time; [0, 1] of none."""
    parts, waiting = [], list[Pixels]()
    for image in images:
        waiting.append(image)
        if len(waiting) == CHUNK:
            parts.append(features(waiting))
            waiting = []
    parts += [features(waiting)] if waiting else []
    return np.concatenate(parts) if parts else np.empty((0, 1))


def distances(a: Floats, b: Floats) -> Floats:
    """Returns the Euclidean distances [N, M] between features [N, D] and [M, D]."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def nearest(a: Floats, b: Floats) -> Floats:
    """Returns each feature's distance to its nearest one [N] in b [M, D]; NaN where b is empty."""
    return distances(a, b).min(axis=1) if len(b) else np.full(len(a), np.nan)


FEATURES: dict[str, Features] = {"pixels": pixel_features, "efficientnet_lite0": imagenet.features}
"""By their name in `evaluate.alarms.features`."""
