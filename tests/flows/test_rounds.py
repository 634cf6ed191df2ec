"""The flow `round` on a real Prefect server: a round and a policy more where the gate says so, else why not."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.evaluation import verdicts
from flows import rounds
from flows.stage import PipelineFailed, StageFailed, failed
from tests.helpers.prefect_server import post, start
from tests.helpers.scratch import DAG, HEAD, make, run

SETTINGS = {
    "prompts": 5,
    "images_per_prompt": 2,
    "label": "oracle",
    "least_votes": None,
    "temperature": None,
    "rule": "best_worst",
    "with_base": False,
    "with_rounds": [],
}
MORE = """
  label:
    foreach: ${rounds}
    do:
      cmd: python pipeline.py stage label@${key}
      deps: ["models/policies/${item.policy}"]
      params: ["rounds.${key}"]
      outs: ["data/rounds/${key}"]
  gate:
    cmd: python pipeline.py stage gate
    deps: [metrics/evaluate.json, models/policies, raw/passes]
    params: [policies]
    outs: [metrics/gate.json]
"""
LABEL = """
def run(params, name):
    write(f"data/rounds/{name}/labels.txt", params.rounds[name].policy)
"""
GATE = """
def run(params):
    passes = Path("raw/passes").read_text()
    def ruling(ok):
        verdict = "passed" if ok else "failed"
        figure = {"figure": 0.4, "low": 0.3, "high": 0.5, "threshold": 0.5, "note": ""}
        return {"verdict": verdict, "rulings": [{"name": "win rate above 0.5", "verdict": verdict, **figure}]}
    found = [{"policy": name, **ruling(name in passes)} for name in params.policies if name != "base"]
    write("metrics/gate.json", json.dumps({"schema": 1, "baseline": "base", "policies": found}))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with toy stages: a round's labels come of its policy, the next policy of them; a file is the gate."""
    folder = make(tmp_path_factory.mktemp("rounds") / "project")
    dag = DAG.replace("deps: [data/comparisons, stages/train.py]", 'deps: [data/comparisons, "${item.init}"]')
    assert dag != DAG
    (folder / "dvc.yaml").write_text(dag + MORE)
    (folder / "stages/label.py").write_text(HEAD + LABEL)
    (folder / "stages/gate.py").write_text(HEAD + GATE)
    (folder / "assets/tiny-sd").mkdir(parents=True)
    (folder / "assets/tiny-sd/weights").touch()
    (folder / "raw/passes").write_text("nobody")
    return folder


def flow(folder: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Runs the flow against the server; returns what it said, and its run there."""
    code = f"from flows.rounds import rounds; rounds('dpo', {SETTINGS!r}, 1, 0, return_state=True)"
    done = run(folder, "-c", code, PREFECT_API_URL=start(), DIFFALIGN_TRACKING="0")
    asked = {"flows": {"name": {"any_": ["round"]}}, "sort": "START_TIME_DESC", "limit": 1}
    return done, dict(post("flow_runs/filter", flow_runs={"start_time": {"is_null_": False}}, **asked)[0])


@pytest.mark.slow
def test_a_round_is_added_only_where_the_gate_passes_the_policy_before(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    done, found = flow(project)
    assert (found["state_type"], found["state_name"]) == ("COMPLETED", "Held"), done.stdout
    assert "dpo doesn't pass the gate. win rate above 0.5: failed, 0.400 [0.300, 0.500]" in found["state"]["message"]
    assert (project / "params.yaml").read_text() == before
    assert (project / "metrics/gate.json").exists()  # what stands was made and judged

    (project / "raw/passes").write_text("dpo")
    done, found = flow(project)
    assert found["state_name"] == "Completed", done.stdout
    params = yaml_file.read(project / "params.yaml")
    added = {"policy": "dpo", "reference": "models/policies/dpo", "seed": 1, **SETTINGS}
    assert params["rounds"] == {"dpo_r1": added}
    assert params["policies"]["dpo_r1"] == params["policies"]["dpo"] | {"init": "data/rounds/dpo_r1"}
    assert (project / "data/rounds/dpo_r1/labels.txt").read_text() == "dpo"
    assert (project / "models/policies/dpo_r1/policy.json").exists()
    assert "dpo_r1: dpo_r1 doesn't pass the gate" in done.stdout


def test_the_chain_goes_on_from_its_newest_policy() -> None:
    raw = {
        "policies": {"base": {"init": "m"}, "dpo": {"init": "m", "beta": 5}, "x": {"init": "data/rounds/r1"}},
        "rounds": {"r1": {"policy": "dpo"}},
        "generate": {"overrides": {"dpo": {"guidance": 2.0}}},
    }
    assert rounds.chain_of(raw, "dpo") == ["dpo", "x"]
    assert rounds.chain_of(raw, "base") == ["base"]
    found = rounds.added(raw, ["dpo", "x"], {"prompts": 3, "reference": "m"})
    assert found == {
        "rounds.dpo_r2": {"policy": "x", "reference": "m", "seed": 2, "prompts": 3},
        "policies.dpo_r2": {"init": "data/rounds/dpo_r2", "beta": 5},
        "generate.overrides.dpo_r2": {"guidance": 2.0},
    }
    raw["policies"]["dpo_r2"] = {"init": "m"}
    with pytest.raises(UserError, match="expected no dpo_r2"):
        rounds.added(raw, ["dpo", "x"], {})
    with pytest.raises(UserError, match="expected one of base, dpo, x, dpo_r2, got 'sft'"):
        rounds.chain_of(raw, "sft")


def test_missing_answers_are_waited_for_and_other_failures_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml_file.dump({"rounds": {"r1": {"label": "people"}, "r2": {"label": "oracle"}}}))
    missing = StageFailed("label@r1", 2, ["error: label@r1: 3 of 10 answers of people are there"])
    found = rounds.waiting(failed(PipelineFailed([missing], ["train@next"])))
    assert found is not None and found.name == "Waiting"
    assert "3 of 10 answers" in str(found.message)
    broken = StageFailed("label@r1", 2, ["error: data/raters/r1 can't be read"])
    for error in (StageFailed("label@r2", 2, []), broken, StageFailed("train@x", 2, [])):
        assert rounds.waiting(failed(PipelineFailed([missing, error], []))) is None
    gate = {"schema": 1, "baseline": "base", "policies": []}
    verdicts.FILE.parent.mkdir()
    verdicts.FILE.write_text(json.dumps(gate))
    assert rounds.refusal("base") == "base is the baseline, which the gate doesn't rule on."
