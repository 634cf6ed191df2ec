"""Comparisons by sets and categories, judges' families, images made differently, and seeds of training, by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from diffalign.evaluation import win_rates
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Learnt
from diffalign.evaluation.win_rates import Judged
from diffalign.generation.gallery import Entry, Gallery

MADE = {"sampler": {"name": "ddim"}, "steps": 10, "guidance": 4.0, "rules": {}, "resolution": 64, "dtype": "float32"}


def gallery(name: str, **about: Any) -> Gallery:
    """Four prompts: three of the set a, two of them cats and one a dog, and one of the set b without a category."""
    prompts = [("a", "cat"), ("a", "cat"), ("a", "dog"), ("b", None)]
    entries = [
        Entry(file=f"{i}.png", prompt=str(i), set=of, category=kind, prompt_index=i, seed=0, sha256="x")
        for i, (of, kind) in enumerate(prompts)
    ]
    return Gallery(Path(name), MADE | {"policy": name, "noise_seed": 0} | about, tuple(entries))


def judged(**changes: Any) -> Judged:
    """Two judges; `one` gives new 2, 0, 0 in set a, base 1 everywhere; `two` can't tell them apart within its band."""
    one = {"base": np.ones(4), "new": np.array([2.0, 0.0, 0.0, 5.0]), "newer": np.array([2.0, 2.0, 0.0, np.nan])}
    two = {"base": np.zeros(4), "new": np.full(4, 0.1), "newer": np.full(4, 0.3)}
    values: dict[str, Any] = {
        "galleries": {
            "base": gallery("base"),
            "new": gallery("new", steps=20, noise_seed=1),
            "newer": gallery("newer"),
        },
        "scores": {
            "one": {policy: {"one": column} for policy, column in one.items()},
            "two": {policy: {"two": column} for policy, column in two.items()},
        },
        "interval": Interval(200, 0.95, 0),
        "bands": {"one": 0.0, "two": 0.2},
        "families": {"one": ("pickapic",), "two": ("hpdv2",)},
        "policies": {
            "base": Learnt(method="none", seed=None, families=()),
            "new": Learnt(method="dpo", seed=0, families=("own", "pickapic")),
            "newer": Learnt(method="dpo", seed=1, families=("own", "pickapic")),
        },
    }
    return Judged(**(values | changes))


def test_each_judge_and_set_is_a_row() -> None:
    rows = [row for row in win_rates.over_baseline("base", judged()) if row.policy == "new"]
    assert [(r.scorer, r.set, r.wins, r.ties, r.losses) for r in rows] == [
        ("one", "a", 1, 0, 2),
        ("one", "b", 1, 0, 0),
        ("two", "a", 0, 3, 0),
        ("two", "b", 0, 1, 0),
    ]


def test_what_was_made_differently_or_learnt_alike_is_said() -> None:
    one, *_, two = win_rates.over_baseline("base", judged())[:4]
    assert (one.differs, one.same_noise, one.in_family) == (("steps",), False, True)
    assert not two.in_family
    newer = win_rates.over_baseline("base", judged())[4]
    assert (newer.policy, newer.differs, newer.same_noise) == ("newer", (), True)


def test_holm_is_over_judges_and_sets_of_two_policies() -> None:
    """p of the four rows of `newer`: 1 for 2 of 3, nothing judged, 0.25 for 3 of 3, 1 for 1 of 1: 3 are adjusted."""
    rows = [row for row in win_rates.over_baseline("base", judged()) if row.policy == "newer"]
    assert [row.p for row in rows] == [1.0, None, 0.25, 1.0]
    assert [row.p_holm for row in rows] == [1.0, None, 0.75, 1.0]


def test_categories_are_counted_apart() -> None:
    rows = [r for r in win_rates.by_category("base", judged()) if (r.policy, r.scorer) == ("new", "one")]
    assert [(r.set, r.category, r.wins, r.losses, r.prompts) for r in rows] == [
        ("a", "cat", 1, 1, 2),
        ("a", "dog", 0, 1, 1),
    ]


def test_trainings_that_differ_in_their_seed_have_a_common_rate() -> None:
    """Set a: new wins 1 of 3, newer 2 of 3: 1/2 together."""
    settings = {"new": {"lr": 1, "seed": 0}, "newer": {"lr": 1, "seed": 1}, "other": {"lr": 2, "seed": 2}}
    groups = win_rates.same_but_seed(settings)
    assert groups == [("new", "newer")]
    first = win_rates.over_seeds(groups, "base", judged())[0]
    assert (first.policies, first.set, first.wins, first.losses, first.win_rate) == (("new", "newer"), "a", 3, 3, 0.5)
    assert first.p == 1
    assert win_rates.same_but_seed({"x": {"lr": 1, "seed": 0}, "y": {"lr": 1, "seed": 0}}) == []
