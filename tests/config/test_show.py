"""`pipeline.py show`: params as they are resolved."""

from pathlib import Path

import pytest

from diffalign.config.show import shown
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from tests.helpers.project import make_params


def test_a_policy_has_all_that_it_takes_from_training(tmp_path: Path) -> None:
    make_params(tmp_path, {"base": {"method": "none"}, "dpo": {"method": "dpo", "lr": 0.25}})
    file = tmp_path / "params.yaml"
    policy, raw = yaml_file.parse(shown("policies.dpo", file), "shown"), yaml_file.read(file)
    assert "steps" not in raw["policies"]["dpo"]
    unset = dict.fromkeys(("round", "reference_init", "raters", "rater_tokens"))
    assert policy == {**raw["training"], **raw["policies"]["dpo"], **unset}
    assert policy["lr"] == 0.25 != raw["training"]["lr"]
    assert shown("policies.dpo.lr", file).split() == ["0.25"]
    assert yaml_file.parse(shown("", file), "shown")["policies"]["dpo"] == policy


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("policies.none", r"expected a key of policies \(base\), got 'none'"),
        ("polices", r"expected a key of .*params\.yaml \(data, .*\), got 'polices'"),
        ("data.path.x", r"expected a key of data\.path \(no keys\), got 'x'"),
    ],
)
def test_what_is_not_there_is_a_user_error(tmp_path: Path, path: str, message: str) -> None:
    make_params(tmp_path, {"base": {"method": "none"}})
    with pytest.raises(UserError, match=message):
        shown(path, tmp_path / "params.yaml")
