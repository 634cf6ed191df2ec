"""The audit of raters on trained models: whose taste a policy learned is found out, and none where all were asked."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.commands import relabel
from diffalign.config.load import parse
from diffalign.evaluation.audits import findings
from diffalign.evaluation.audits.findings import Composition
from diffalign.evaluation.relabel import Asked
from diffalign.shapes.tastes import WORLDS
from stages import audit, evaluate, generate, ingest, precompute, score, train
from tests.helpers.project import REPO

pytestmark = pytest.mark.nightly
WORLD = WORLDS["strong"]
GROUPS = {name: [WORLD.ids[member] for member in WORLD.members(name)] for name in WORLD.groups}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Composition]:
    """What the audit says of a policy of one group's answers, and of one of everybody's, by the policy's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("biased"))
        patch.setenv("PYTHONPATH", str(REPO))
        patch.setenv("DIFFALIGN_PROCESSES", "1")
        Path("assets").symlink_to(REPO / "assets")
        raw = params()
        ingest.run(parse(raw))
        relabel.run(parse(raw), "raters", Path("strong"), Asked(answers=3, noise=0.05, tie_below=0.02, seed=0))
        raw["data"]["path"] = "strong"
        values = parse(raw)
        ingest.run(values)
        precompute.run(values)
        for policy in values.policies:
            train.run(values, policy)
            generate.run(values, policy)
        for reward in values.rewards:
            score.run(values, reward)
        evaluate.run(values)
        audit.run(values)
        return {row.name: row for row in findings.read().composition if row.kind == "policy"}


def params() -> dict[str, Any]:
    """The default's, with two policies that differ in whose answers they learn from."""
    raw: dict[str, Any] = yaml.safe_load((REPO / "params.yaml").read_text())
    dpo = raw["policies"]["dpo"] | {"steps": 150}
    raw["policies"] = {"base": raw["policies"]["base"], "left": dpo | {"raters": GROUPS["left"]}, "all": dpo}
    raw |= {"rewards": {"oracle": {}, "raters": {"world": "strong", "of": [*WORLD.ids]}}, "reward_models": {}}
    raw["generate"] |= {"prompts": {"validation": 8}}
    raw["evaluate"] |= {"draws": 2, "pairs": 1000}
    raw["audit"] |= {"rater_groups": GROUPS, "filters": {}, "attributes": {}}
    raw["gate"]["conditions"] = [{"figure": "rater_gap", "at_most": 0.4}]
    return raw


def test_a_policy_of_one_groups_answers_is_found_out(found: dict[str, Composition]) -> None:
    one = found["left"]
    agreed = {group.raters: group.rate for group in one.groups}
    assert max(agreed, key=lambda name: agreed[name] or 0) == "left"
    assert {group.raters for group in one.groups if group.trained_pairs} == {"left"}
    assert min(agreed, key=lambda name: agreed[name] or 0) == "right"
    assert one.p is not None and one.p < 0.05


def test_a_policy_of_everybodys_answers_isnt(found: dict[str, Composition]) -> None:
    one = found["all"]
    assert one.p is not None and one.p > 0.05
    gap, biased = one.gap, found["left"].gap
    assert gap and biased and gap.value is not None and biased.value is not None
    assert gap.value < biased.value
