"""Raters' worlds: ids, groups, tastes that average to none and depend on the seed only."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffalign.shapes import oracle
from diffalign.shapes.tastes import WORLDS


def test_a_raters_group_is_the_hundreds_of_its_id() -> None:
    world = WORLDS["strong"]
    assert world.ids[:5] == ("100", "201", "302", "403", "104") and len(world.ids) == 12
    assert [world.ids[i] for i in world.members("right")] == ["201", "205", "209"]
    assert world.members("205") == [5] and 5 in world.members("right")


@pytest.mark.parametrize("name", WORLDS)
def test_tastes_average_to_none_and_depend_on_the_seed_only(name: str) -> None:
    world = WORLDS[name]
    np.testing.assert_allclose(world.tastes(3).mean(axis=0), 0, atol=1e-15)
    assert (world.tastes(3) == world.tastes(3)).all() and (world.tastes(3) != world.tastes(4)).any()


def test_the_mild_worlds_scales_are_those_of_its_pictures(repo: Path) -> None:
    """Centre and spread over the test split's, about as the answers to assets/comparisons were made with."""
    rows = pq.read_table(repo / "assets/comparisons/test_unique-00000-of-00001.parquet")["jpg_0"].to_pylist()[:60]
    readings = [oracle.read(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) for data in rows]
    found = np.stack([WORLDS["mild"].read(reading) for reading in readings])
    assert (np.abs(found.mean(axis=0)) < 0.4).all() and (np.abs(found.std(axis=0) - 1) < 0.35).all()
