"""Samplers in params: their settings, which family each is for, and what differs for a policy."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.config import samplers
from diffalign.config.load import parse
from diffalign.core.axes import names
from diffalign.core.errors import UserError

FLOWS = {"name": "flow_euler"}


@pytest.fixture
def raw(repo: Path) -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((repo / "params.yaml").read_text()))


def message(raw: Any) -> str:
    with pytest.raises(UserError) as error:
        parse(raw, "params.yaml")
    return str(error.value)


def test_a_policy_has_what_is_for_all_but_for_its_override(raw: dict[str, Any]) -> None:
    raw["generate"]["overrides"] = {"dpo": {"guidance": 1.0, "sampler": {"name": "euler", "spacing": "trailing"}}}
    values = parse(raw)
    shared = {key: raw["generate"][key] for key in ("sampler", "steps", "guidance")}
    others = {"rules": {}, "resolution": raw["precompute"]["resolution"]}
    assert values.sampling("base") == shared | others
    assert values.sampling("dpo") == shared | raw["generate"]["overrides"]["dpo"] | others


def test_a_flow_sampler_on_a_diffusion_model_is_refused_and_the_reverse(raw: dict[str, Any]) -> None:
    raw["generate"]["overrides"] = {"dpo": {"sampler": {"name": "flow_cps", "noise": 0.8}}}
    assert (
        "generate.overrides.dpo.sampler.name: expected one of ddim, dpmpp_2m, euler, euler_ancestral, since sd15 is a "
        "diffusion model, got 'flow_cps'"
    ) in message(raw)
    raw["model"]["family"] = "sd3"
    raw["generate"]["overrides"] = {}
    assert (
        "generate.sampler.name: expected one of flow_euler, flow_sde, flow_dance, flow_cps, since sd3 is a flow model, "
        "got 'dpmpp_2m'"
    ) in message(raw)
    raw["generate"]["sampler"] = FLOWS
    parse(raw)


def test_the_process_of_every_family_is_known() -> None:
    families = names("diffalign.models")
    assert set(samplers.FAMILIES) == set(families)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ({"name": "ddim", "eta": 1.5, "spacing": "leading"}, "generate.sampler.eta: expected"),
        ({"name": "ddim", "spacing": "leading"}, "generate.sampler.eta: missing"),
        ({"name": "euler", "spacing": "leading", "eta": 0.0}, "generate.sampler.eta: unknown key"),
        ({"name": "euler", "spacing": "karras"}, "generate.sampler.spacing: expected"),
        ({"name": "flow_cps", "noise": 1.5}, "generate.sampler.noise: expected"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(raw: dict[str, Any], sampler: dict[str, Any], expected: str) -> None:
    raw["generate"]["sampler"] = sampler
    text = message(raw)
    assert "1 error:" in text and expected in text
    raw["generate"]["sampler"] = {"name": "ddim", "eta": 0.0, "spacing": "leading"}
    raw["generate"]["overrides"] = {"dpo": {"sampler": sampler}}
    assert expected.replace("generate.sampler", "generate.overrides.dpo.sampler") in message(raw)


def test_an_unknown_sampler_is_told_of_those_there_are(raw: dict[str, Any]) -> None:
    raw["generate"]["sampler"] = {"name": "dpmpp"}
    text = message(raw)
    assert "generate.sampler.name: expected one of ddim, dpmpp_2m, " in text and "got 'dpmpp'" in text
    del raw["generate"]["sampler"]["name"]
    assert "generate.sampler.name: missing; expected one of ddim, dpmpp_2m, " in message(raw)


def test_an_override_for_no_policy_is_refused(raw: dict[str, Any]) -> None:
    raw["generate"]["overrides"] = {"dpoo": {"steps": 3}}
    assert "generate.overrides.dpoo: expected one of the policies" in message(raw)
