"""feedback: what train@POLICY depends on through rewards, and no more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffalign.config.params import Params
from diffalign.core import code
from diffalign.core.errors import UserError
from stages import feedback
from tests.helpers.project import make_params

POLICIES: dict[str, dict[str, Any]] = {
    "base": {"method": "none"},
    "pairs": {"method": "dpo"},
    "small": {"method": "ddpo"},
    "liked": {"method": "draft"},
    "picked": {"method": "sft", "curate": {"by": "oracle", "keep": 0.5, "per_prompt": None, "least": None}},
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the stage with changes of params; what it writes, by policy."""
    monkeypatch.chdir(tmp_path)
    Path("judge").mkdir()
    Path("judge/model.safetensors").write_text("weights")

    def params(**changes: Any) -> Params:
        policies = {name: values | changes.pop(name, {}) for name, values in POLICIES.items()}
        return make_params(
            Path(), policies, **{"rewards": {"oracle": {}}, "rollouts": {"rewards_from": "judge"}} | changes
        )

    def run(**changes: Any) -> dict[str, Any]:
        feedback.run(params(**changes))
        return {path.stem: json.loads(path.read_text()) for path in Path("data/feedback").iterdir()}

    return run


def different(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_weights_and_settings_are_of_those_who_read_them(written: Callable[..., dict[str, Any]]) -> None:
    first = written()
    assert first["base"] == first["pairs"] == {}
    Path("judge/model.safetensors").write_text("other weights")
    assert different(first, second := written()) == {"liked"}
    assert different(second, written(rewards={"oracle": {}, "jpeg_compressibility": {}})) == set()
    learned = {"learned": {"weight": 1.0, "path": "judge", "batch_size": 2}}
    assert different(second, written(liked={"reward": learned})) == {"liked"}


CODE: dict[str, set[str]] = {
    "diffalign/rewards/parts/jpeg.py": {"small"},
    "diffalign/shapes/oracle.py": {"picked"},
    "diffalign/rewards/reward.py": {"small", "liked", "picked"},
    "diffalign/rewards/pickscore.py": set(),
    "diffalign/diffusion/samplers/ddim.py": {"small", "liked"},
}
"""A file, and whose training runs it."""


def test_an_edit_of_code_is_of_those_who_run_it(
    written: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, plain = written(), code.without_words
    for file, whose in CODE.items():
        source = (code.LIBRARY / file).read_text()
        monkeypatch.setattr(
            code, "without_words", lambda text, source=source: plain(f"{text}X = 1\n" if text == source else text)
        )
        assert different(before, written()) == whose


def test_a_judge_enters_where_it_chooses_the_step(written: Callable[..., dict[str, Any]]) -> None:
    probe = {"every": 2, "images": 2, "rewards": ["oracle"]}
    assert written(probe=probe)["small"]["judges"] == {}
    assert written(probe=probe, small={"choose": "probe"})["small"]["judges"].keys() == {"oracle"}
    judges = {"oracle": {}, "learned": {"path": "elsewhere", "batch_size": 2}}
    with pytest.raises(UserError, match=r"choose: expected judges, .* judge, .*learned's is 'elsewhere'"):
        written(probe=probe | {"rewards": ["learned"]}, rewards=judges, small={"choose": "probe"})
