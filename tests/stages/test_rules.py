"""rules: what generate@POLICY depends on, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffalign.config.params import Params
from diffalign.core import code
from stages import rules
from tests.helpers.project import make_params

LEARNED = {"path": "models/rewards/learned", "batch_size": 4}


def params(rewards: dict[str, Any]) -> Params:
    overrides = {"best": {"best_of": {"reward": "learned", "n": 2}}}
    policies = {"base": {"method": "none"}, "best": {"method": "none"}}
    return make_params(Path(), policies, rewards={"oracle": {}, **rewards}, generate={"overrides": overrides})


def written(values: Params) -> dict[str, Any]:
    rules.run(values)
    return {path.stem: json.loads(path.read_text()) for path in Path("data/rules").iterdir()}


def test_a_policy_depends_on_its_own_rules_reward_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its settings and the weights that were trained; not on others', nor where there is no rule."""
    monkeypatch.chdir(tmp_path)
    Path("metrics/rewards").mkdir(parents=True)
    first = written(params({"learned": LEARNED}))
    assert first["best"].pop("code") == code.reached_hash(
        ["diffalign.rewards.learned"], code.files_of("rules") or set()
    )
    assert first == {"base": {}, "best": {"reward": "learned", "settings": LEARNED, "trained": None}}
    Path("metrics/rewards/other.json").write_text("{}")
    other = written(params({"learned": LEARNED, "nsfw": {}}))
    assert other.pop("base") == {} and other["best"].items() > first["best"].items()
    Path("metrics/rewards/learned.json").write_text("{}")
    assert written(params({"learned": LEARNED}))["best"]["trained"] is not None
    assert written(params({"learned": LEARNED | {"batch_size": 5}}))["best"]["settings"]["batch_size"] == 5
