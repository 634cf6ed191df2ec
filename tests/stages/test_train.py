"""train: which raters a policy learns from."""

import pytest

from diffalign.config.load import parse
from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from stages import train
from tests.helpers.project import REPO
from tests.helpers.specs import MACHINE


def test_a_policys_own_raters_replace_those_of_all() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["pairs"]["raters"] = ["101", "202"]
    raw["policies"]["own"] = raw["policies"]["dpo"] | {"raters": ["303"]}
    values = parse(raw)
    own = train.make_spec(values, "own", values.policies["own"], "", MACHINE)
    assert own.pairs == values.pairs.model_copy(update={"raters": ["303"]})
    assert train.make_spec(values, "dpo", values.policies["dpo"], "", MACHINE).pairs == values.pairs


def test_own_raters_have_no_kept_errors() -> None:
    raw = yaml_file.read(REPO / "params.yaml")
    raw["reference"]["draws"] = 1
    raw["policies"]["own"] = raw["policies"]["dpo"] | {"raters": ["303"], "reference": "cached"}
    with pytest.raises(UserError, match=r"policies.own.reference: expected live or none, since its raters"):
        parse(raw)
