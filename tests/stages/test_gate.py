"""gate: reads what other stages left and writes the verdicts; it raises for no policy that fails."""

import json
from pathlib import Path

import pytest

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import write_json_lines
from diffalign.evaluation import people_results, results, verdicts
from diffalign.evaluation.audits import findings
from stages import gate
from tests.evaluation.test_gate import comparison, figures
from tests.helpers.project import make_params

POLICIES = {"base": {"method": "none"}, "dpo": {"method": "dpo"}, "sft": {"method": "sft"}}


def test_the_stage_rules_on_each_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """sft's winners got much worse in training: its win rate doesn't help it."""
    monkeypatch.chdir(tmp_path)
    conditions = [
        {"figure": "win_rate", "judge": "oracle", "set": "all", "above": 0.5},
        {"figure": "training_alarms", "allowed": []},
    ]
    params = make_params(tmp_path, POLICIES, gate={"conditions": conditions})
    with pytest.raises(UserError, match="dvc repro evaluate"):
        gate.run(params)
    records.write(results.FILE, figures(comparison("dpo"), comparison("sft")).evaluation)
    records.write(findings.FILE, figures().audit)
    records.write(people_results.FILE, figures().people)
    for name, risen in (("dpo", 0.0), ("sft", 9.0)):
        probe = {"winner_relative": risen, "winner_relative_se": 0.1, "loser_relative": 0.0, "broken": 0.0}
        line = {"step": 8} | {f"probe/{key}": value for key, value in probe.items()}
        write_json_lines(Path(f"curves/{name}.jsonl"), [line])
    gate.run(params)
    assert {one.policy: one.verdict for one in verdicts.read().policies} == {"dpo": "passed", "sft": "failed"}
    assert json.loads(Path("metrics/summary.json").read_text())["sft"]["gate_passed"] is False
    shown = capsys.readouterr().out
    assert "winner_worse" in shown and "pipeline.py promote dpo" in shown
