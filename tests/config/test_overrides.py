"""Values written into params.yaml: comments stay, the file before is kept, what is wrong changes nothing."""

from pathlib import Path
from typing import Any

import pytest

from diffalign.config import overrides, presets
from diffalign.core import yaml_file
from diffalign.core.errors import UserError


@pytest.fixture
def params(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default params.yaml, and the presets, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").symlink_to(repo / "presets")
    path = tmp_path / "params.yaml"
    path.write_bytes((repo / "params.yaml").read_bytes())
    return path


def test_a_value_changes_in_its_line_only(params: Path) -> None:
    before = params.read_text().splitlines()
    said = overrides.write({"policies.dpo.beta": 500, "training.lr": 1e-5, "policies.sft.lr": 2e-5})
    after = params.read_text().splitlines()
    new = [line for line in after if line not in before]
    assert [line.split("#")[0].strip() for line in new] == ["lr: 1e-05", "beta: 500", "lr: 2e-05"]
    assert "# the peak learning rate" in new[0]
    assert len(after) == len(before) + 1
    assert "  policies.dpo.beta: 1000 -> 500\n" in said and "policies.sft.lr: not there -> 2e-05" in said
    (kept,) = [path for path in presets.KEPT.glob("*.yaml") if path.read_text().splitlines() == before]
    assert str(kept) in said


def test_what_is_so_already_isnt_written_again(params: Path) -> None:
    asked = {"policies.dpo.beta": 1000, "training.ema": None, "training.stratified": False}
    assert overrides.write(asked) == "params.yaml is as asked already."
    assert not presets.KEPT.exists()
    presets.keep(params.read_bytes())
    overrides.write({"policies.dpo.beta": 500}, "sd15")
    once = params.read_bytes()
    overrides.write({"policies.dpo.beta": 500}, "sd15")
    assert params.read_bytes() == once
    # What a run wrote isn't an edit by hand: the next one may replace it.
    overrides.write({"policies.dpo.beta": 600}, "sd15")
    assert yaml_file.read(params)["policies"]["dpo"]["beta"] == 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies.dpo.bta": 1}, r"policies\.dpo\.bta: unknown key"),
        ({"polices.dpo.beta": 1}, "polices.dpo.beta: expected a path in params.yaml, found no section 'polices'"),
        ({"policies.dpo.beta.x": 1}, "found no section 'beta'"),
        ({"policies.dpo.beta": "much"}, "policies.dpo.beta: expected"),
    ],
)
def test_what_is_wrong_changes_nothing(params: Path, changes: dict[str, Any], message: str) -> None:
    before = params.read_bytes()
    with pytest.raises(UserError, match=message):
        overrides.write(changes)
    assert params.read_bytes() == before
    assert not presets.KEPT.exists()


def test_a_preset_doesnt_replace_edits(params: Path) -> None:
    params.write_text(params.read_text() + "# mine\n")
    with pytest.raises(UserError, match="changes that git doesn't have"):
        overrides.write({}, "sd15")
    with pytest.raises(UserError, match="expected one of sd15"):
        overrides.write({}, "sd99")


def test_values_are_yaml() -> None:
    given = ["a.b=1e-5", "c=[x, 2]", "d=null", "e=a=b"]
    assert overrides.parsed(given) == {"a.b": 1e-5, "c": ["x", 2], "d": None, "e": "a=b"}
    with pytest.raises(UserError, match=r"expected KEY=VALUE, .*got 'beta'"):
        overrides.parsed(["beta"])
