"""Whose vectors policies will have: of the raters that they learn from, and of their init's."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diffalign.config.params import Params
from diffalign.config.training import Trained
from diffalign.planning import raters
from tests.helpers.comparison_rows import one, table
from tests.helpers.project import make_params

TOKENS = {"method": "dpo", "rater_tokens": {"drop": 0.0, "lr": 0.02, "only": False}}
POLICIES: dict[str, dict[str, Any]] = {
    "base": {"method": "none"},
    "all": TOKENS,
    "two": TOKENS | {"raters": ["r1", "r2"]},
    "plain": {"method": "dpo", "init": "models/policies/two"},
    "view": {"method": "none", "init": "models/policies/two"},
    "third": TOKENS | {"raters": ["r3"], "init": "models/policies/view"},
    "after_plain": TOKENS | {"raters": ["r3"], "init": "models/policies/plain"},
    "after_all": TOKENS | {"raters": ["r3"], "init": "models/policies/all"},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    return make_params(tmp_path, POLICIES)


def known(project: Params) -> dict[str, set[str] | None]:
    settings = {name: one for name, one in project.policies.items() if isinstance(one, Trained) and one.rater_tokens}
    return {name: raters.known(project, one) for name, one in settings.items()}


def test_before_ingest_the_named_raters_are_known(project: Params) -> None:
    """A view has its init's vectors, a policy that was trained without any has none."""
    assert known(project) == {
        "all": None,
        "two": {"r1", "r2"},
        "third": {"r1", "r2", "r3"},
        "after_plain": {"r3"},
        "after_all": None,
    }


def test_after_ingest_all_of_the_train_split_are(project: Params) -> None:
    Path("data/comparisons").mkdir(parents=True)
    rows = [one(n, rater=f"r{n}") for n in range(1, 5)] + [one(5, rater="r5", split="test")]
    pq.write_table(table(*rows), "data/comparisons/comparisons.parquet")
    every = {"r1", "r2", "r3", "r4"}
    found = known(project)
    assert (found["all"], found["two"], found["after_all"]) == (every, {"r1", "r2"}, every)
