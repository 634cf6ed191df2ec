"""The grid shows what its titles say: random is random, best is best, and one image a prompt."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from diffalign.generation import gallery as galleries
from diffalign.generation.pipeline import png
from diffalign.reporting import image_grid
from tests.helpers.galleries import write_gallery
from tests.helpers.world import CAPTIONS, HOSTILE


def test_best_and_worst_by_hand() -> None:
    gains = np.array([0.1, -0.5, 0.9, np.nan, 0.9, -0.7, 0.0])
    chosen = {group.title: group.slots for group in image_grid.choose(gains, range(7), 3, 2, 0, 0)}
    assert chosen == {"Best": (2, 4, 0), "Worst": (5, 1)}


def test_a_prompt_stands_once_in_a_group() -> None:
    gains, prompts = np.array([0.1, 0.9, 0.8, 0.2]), [0, 1, 1, 2]
    chosen = {group.title: group.slots for group in image_grid.choose(gains, prompts, 3, 3, 3, 0)}
    assert chosen["Best"] == (1, 3, 0)
    assert chosen["Worst"] == (0, 3, 2)
    assert sorted({prompts[i] for i in chosen["At random"]}) == [0, 1, 2]


def test_random_ones_depend_on_the_seed_alone() -> None:
    def drawn(gains: np.ndarray, seed: int) -> tuple[int, ...]:
        return image_grid.choose(gains, range(50), 0, 0, 8, seed)[0].slots

    rng = np.random.default_rng(0)
    first = drawn(rng.random(50), 0)
    assert first == drawn(rng.random(50), 0) == drawn(np.full(50, np.nan), 0)
    assert first != drawn(rng.random(50), 1)


def test_without_scores_only_random_ones_are_shown() -> None:
    assert [group.title for group in image_grid.choose(np.full(5, np.nan), range(5), 4, 4, 3, 0)] == ["At random"]


def gallery(folder: Path, shade: int, prompts: list[str], size: int = 64) -> galleries.Gallery:
    """A folder of flat images, red for one, blue for another."""
    flat = png(np.full((size, size, 3), (shade, 0, 255 - shade), np.uint8))
    write_gallery(folder, prompts, size=size, draw=lambda n: flat)
    return galleries.read(folder)


def test_the_picture_has_each_pair_side_by_side_and_survives_any_caption(tmp_path: Path) -> None:
    prompts = [*CAPTIONS[:3], *HOSTILE, "word " * 10000, "x" * 5000, "", "日本の猫\n\t\x07"]
    before, after = gallery(tmp_path / "base", 255, prompts), gallery(tmp_path / "dpo", 0, prompts)
    groups = [
        image_grid.Group("At random", "Drawn.", tuple(range(len(prompts)))),
        image_grid.Group("Best", "Note.", (0, 1)),
    ]
    image = Image.open(io.BytesIO(image_grid.picture(groups, before, after, ("base", "dpo"), columns=4, side=32)))
    pixels = np.asarray(image.convert("RGB"), int)
    red, blue = ((np.abs(pixels - np.array(c)).sum(axis=2) < 3).sum() for c in ((255, 0, 0), (0, 0, 255)))
    assert red == blue == (len(prompts) + 2) * 32 * 32
    assert (pixels[-20:] == 255).all()  # nothing is cut off below
    rows = np.flatnonzero((np.abs(pixels - np.array((255, 0, 0))).sum(axis=2) < 3).any(axis=1))
    assert rows.max() < image.height - 28
