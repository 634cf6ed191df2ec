"""Perceptual hashes by hand, and an index that finds what comparing with all finds."""

import random

import numpy as np
import pytest
from PIL import Image

from diffalign.data.near import Index, dhash


def test_a_hash_by_hand() -> None:
    """Brighter to the right everywhere: 64 ones; darker, or flat with noise: none. A step after cell 4: 8 ones."""
    ramp = np.tile(np.repeat(np.arange(9, dtype=np.uint8) * 20, 8), (64, 1))
    noise = 100 + np.random.default_rng(0).integers(-1, 2, ramp.shape).astype(np.uint8)
    step = np.where(np.arange(72) < 40, 10, 200).astype(np.uint8) * np.ones((64, 1), np.uint8)
    hashes = [dhash(Image.fromarray(picture).convert("RGB")) for picture in (ramp, ramp[:, ::-1], noise, step)]
    assert hashes[:3] == [2**64 - 1, 0, 0]
    assert hashes[3] == int("00001000" * 8, 2)


@pytest.mark.parametrize("distance", [0, 4, 10])
def test_the_index_finds_what_comparing_with_all_finds(distance: int) -> None:
    rng = random.Random(distance)
    known = [rng.getrandbits(64) for _ in range(50)]
    index, seen = Index(known, distance), set()
    for _ in range(400):
        asked = rng.choice(known)
        for bit in rng.sample(range(64), rng.randrange(distance + 3)):
            asked ^= 1 << bit
        expected = min((asked ^ one).bit_count() for one in known) <= distance
        assert index.has(asked) == expected
        seen.add(expected)
    assert seen == {True, False}
    assert not Index([], distance).has(0)
