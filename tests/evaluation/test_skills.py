"""Rates of skills by policy: means by hand, images without a question left out."""

from pathlib import Path

import numpy as np

from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.skills import rates
from diffalign.generation.gallery import Entry, Gallery

NAN = float("nan")


def gallery(prompts: list[int]) -> Gallery:
    entries = tuple(
        Entry(file=f"{i}.png", prompt=f"p{p}", set="test", category=None, prompt_index=p, seed=i, sha256="")
        for i, p in enumerate(prompts)
    )
    return Gallery(Path("images/x"), {}, entries)


def test_a_skills_rate_is_the_mean_over_images_that_were_asked() -> None:
    """Of four images of three prompts one has no question of count, and none has one of binding."""
    columns = {
        "oracle": np.array([0.5, 0.5, 0.5, 0.5]),
        "oracle_count": np.array([1.0, 0.0, NAN, 1.0]),
        "oracle_colour": np.array([1.0, 0.5, 1.0, 1.0]),
        "oracle_binding": np.full(4, NAN),
        "oracle_fidelity": np.array([1.0, 1.0, 1.0, 1.0]),
    }
    found = rates({"dpo": gallery([0, 0, 1, 2])}, {"oracle": {"dpo": columns}}, Interval(200, 0.95, 0))
    assert [(row.policy, row.scorer, row.skill) for row in found] == [
        ("dpo", "oracle", "count"),
        ("dpo", "oracle", "colour"),
    ]
    count, colour = found
    assert (count.share, count.images, count.prompts) == (2 / 3, 3, 2)
    assert (colour.share, colour.images, colour.prompts) == (0.875, 4, 3)
    assert all(row.ci_low <= row.share <= row.ci_high for row in found)


def test_a_judge_without_skills_has_none() -> None:
    values = {"jpeg_compressibility": {"dpo": {"jpeg_compressibility": np.array([-1.0])}}}
    assert rates({"dpo": gallery([0])}, values, Interval(200, 0.95, 0)) == []
