"""Rules of sampling in params: which reward, which sampler, and that they don't contradict each other."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.config.load import parse
from diffalign.core.errors import UserError

DOODL = {
    "reward": "learned",
    "iterations": 15,
    "lr": 1.0,
    "momentum": 0.9,
    "clip": 0.001,
    "noise": 0.0,
    "keep": "best",
    "coupled": None,
}
DDIM = {"name": "ddim", "eta": 0.0, "spacing": "leading"}


@pytest.fixture
def raw(repo: Path) -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((repo / "params.yaml").read_text()))


def test_a_policys_rules_are_how_its_images_are_made(raw: dict[str, Any]) -> None:
    raw["generate"]["overrides"] = {
        "base_again": {"optimise": DOODL},
        "dpo": {"best_of": None, "mix_base": {"power": 2}},
    }
    values = parse(raw)
    assert values.sampling("base_again")["rules"] == {"optimise": DOODL}
    assert values.sampling("dpo")["rules"] == {"mix_base": {"power": 2.0}}
    assert values.sampling("base")["rules"] == {}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            {"optimise": DOODL | {"reward": "oracle"}},
            "optimise.reward: expected one of rewards with a gradient, learned",
        ),
        ({"best_of": {"reward": "pickscore", "n": 4}}, "best_of.reward: expected one of rewards, oracle, learned, got"),
        ({"best_of": {"reward": "oracle", "n": 1}}, "best_of.n: expected"),
        ({"optimise": DOODL | {"coupled": 0.85}}, "optimise.coupled: expected"),
        ({"optimise": DOODL | {"coupled": 0.93}}, "optimise.coupled: expected null, or a deterministic sampler of one"),
        ({"optimise": DOODL | {"coupled": 1.0}, "sampler": DDIM, "steps": 51}, "expected at most 50 steps"),
        ({"optimise": DOODL | {"coupled": 1.0}, "sampler": DDIM | {"eta": 0.5}}, "optimise.coupled: expected null, or"),
        ({"optimise": DOODL, "best_of": {"reward": "oracle", "n": 2}}, "best_of: expected null beside optimise"),
        ({"mix_base": {"power": 1.0}}, "mix_base: expected null, since the policy is the base model itself"),
    ],
)
def test_what_a_rule_cannot_do_is_named(raw: dict[str, Any], own: dict[str, Any], expected: str) -> None:
    raw["generate"]["overrides"] = {"base": own}
    with pytest.raises(UserError) as error:
        parse(raw)
    assert expected in str(error.value)
