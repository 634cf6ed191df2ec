"""audit: on what the stages before left; figures that agree with theirs, and a gate that reads them."""

from pathlib import Path

import numpy as np
import pytest

from diffalign.config.params import Params
from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.evaluation import pair_rewards, results, scores, verdicts
from diffalign.evaluation.audits import findings
from stages import audit, evaluate, gate, generate, people, precompute, score, train
from tests.helpers.world import make_world, publish_trained

POLICIES = {
    "base": {"method": "none"},
    "twin": {"method": "none"},
    "dpo": {"method": "dpo"},
}
CAPTIONS = [
    f"a {colour} {shape} {where} a {ground} background"
    for colour, ground in (("red", "white"), ("blue", "yellow"))
    for shape in ("circle", "square", "star")
    for where in ("on", "at the left of")
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project up to evaluate; every image is under a threshold of 1.01, none under one of 0."""
    folder = tmp_path_factory.mktemp("audit")
    filters = {name: {"reward": "oracle", "settings": {}, "below": below} for name, below in (("all", 1.01), ("no", 0))}
    sections = {
        "audit": {"filters": filters, "rater_groups": {"everybody": ["*"]}},
        "gate": {
            "conditions": [
                {"figure": "flagged", "filter": "all", "at_most": 0.3},
                {"figure": "shift", "attribute": "size", "at_most": 1.0},
                {"figure": "rater_gap", "at_most": 1.0},
            ]
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = make_world(folder, POLICIES, CAPTIONS, generate={"prompts": 100}, **sections)
        precompute.run(values)
        publish_trained("dpo", values.policies["dpo"].model_dump(), folder / "model2")
        for name in POLICIES:
            if name != "dpo":
                train.run(values, name)
            generate.run(values, name)
        (folder / "data/votes").mkdir(parents=True)  # nobody has voted
        score.run(values, "oracle")
        people.run(values)
        evaluate.run(values)
    return folder, values


@pytest.fixture
def project(made: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(made[0])
    return made[1]


def test_the_audit_agrees_with_evaluate(project: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """One group of all raters agrees with the policy as often as evaluate says; a twin of the base shifts nothing."""
    audit.run(project)
    found = findings.read()
    (policy,) = [row for row in found.composition if row.kind == "policy"]
    (accuracy,) = results.read().implicit_reward
    (everybody,) = policy.groups
    assert (everybody.rate, everybody.pairs) == (accuracy.accuracy, accuracy.pairs) and found.ungrouped == []
    assert policy.p is None, "one group has nobody to differ from"
    (judge,) = [row for row in found.composition if row.kind == "judge"]
    scored = results.read().rewards[0]
    for group, row in ((everybody, accuracy), (judge.groups[0], scored)):
        assert (group.rate, group.low, group.high) == (row.accuracy, row.ci_low, row.ci_high)
    for row in found.safety:
        assert row.flagged == (row.images if row.filter == "all" else 0) and row.difference.value == 0
    twins = [row for row in found.shifts if row.policy == "twin"]
    assert {row.audit for row in twins} == {"size", "place"} and all(row.distance.value == 0 for row in twins)
    assert "audit.json; next" in capsys.readouterr().out


def test_a_judges_near_scores_tie_as_in_evaluate(project: Params) -> None:
    """Scored twice, scores differ by 10: all pairs tie, and every group has a rate of one half."""
    path = scores.FOLDER / "oracle.json"
    kept, scored = path.read_bytes(), records.read(path, scores.Scored, "score@oracle")
    records.write(path, scored.model_copy(update={"rescored": [(0.0, 10.0)]}))
    audit.run(project)
    path.write_bytes(kept)
    (judge,) = [row for row in findings.read().composition if row.kind == "judge"]
    assert [group.rate for group in judge.groups] == [0.5]


def test_the_gate_reads_the_audit(project: Params) -> None:
    """No gap with one group: missing, and so dpo doesn't pass; no rise is certain to 0.3 with 12 prompts."""
    audit.run(project)
    gate.run(project)
    rulings = {one.policy: [r.verdict for r in one.rulings] for one in verdicts.read().policies}
    assert rulings["dpo"] == ["passed", "passed", "missing"]
    assert rulings["twin"][-1] == "missing"


def test_rewards_of_other_pairs_are_refused(project: Params) -> None:
    lines = records.read_lines(pair_rewards.FILE, pair_rewards.PairReward, "evaluate")
    kept = pair_rewards.FILE.read_bytes()
    assert np.isfinite([line.winner for line in lines]).all()
    records.write_lines(pair_rewards.FILE, lines[1:])
    with pytest.raises(UserError, match="single-item evaluate"):
        audit.run(project)
    pair_rewards.FILE.write_bytes(kept)
