"""docs/evaluation.md's second example: real photographs through all stages, judged by BRISQUE and a learned reward."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from diffalign.core import yaml_file
from tests.helpers.one_process import DRIVER
from tests.helpers.project import REPO
from tools import photographs

pytestmark = pytest.mark.extra
CHANGES = re.compile(r"^<!-- photographs -->\n\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""What the page changes in params.yaml."""


def changed(old: Any, new: Any, path: str = "") -> Any:
    """params.yaml with the page's values: mapping by mapping, but `rewards` and empty mappings replace."""
    if not isinstance(old, dict) or not isinstance(new, dict) or not new or path == "rewards":
        return new
    return old | {key: changed(old.get(key), value, f"{path}.{key}".strip(".")) for key, value in new.items()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on photographs, after a run of its whole DAG."""
    folder = tmp_path_factory.mktemp("photographs")
    (found,) = CHANGES.findall((REPO / "docs/evaluation.md").read_text())
    values = changed(yaml_file.read(REPO / "params.yaml"), YAML(typ="safe").load(found))
    (folder / "params.yaml").write_text(yaml_file.dump(values))
    (folder / "dvc.yaml").write_bytes((REPO / "dvc.yaml").read_bytes())
    (folder / "assets").symlink_to(REPO / "assets")
    photographs.write(folder / values["data"]["path"], side=64, seed=0)
    paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "DIFFALIGN_TRACKING": "off", "DIFFALIGN_DEVICE": "cpu"}
    for command in ((sys.executable, "-m", "dvc", "init", "-q", "--no-scm"), (sys.executable, "-c", DRIVER)):
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def evaluated(done: Path) -> Any:
    return json.loads((done / "metrics/evaluate.json").read_text())


def test_all_pairs_are_there_and_said_to_be_simulated(done: Path) -> None:
    found = json.loads((done / "metrics/ingest.json").read_text())
    assert found["splits"] == photographs.COUNTS and found["rejected"] == 0
    assert found["simulated"], "no person answered"


def test_brisque_ranks_held_out_pairs_as_they_were_made(done: Path) -> None:
    """All of them but two at most; the learned reward is held against as many."""
    rows = {row["name"]: row for row in evaluated(done)["rewards"]}
    assert rows.keys() == {"brisque", "learned"}
    assert {row["pairs"] for row in rows.values()} == {photographs.COUNTS["test"]}
    assert rows["brisque"]["accuracy"] > 0.8 and rows["brisque"]["ci_low"] > 0.5


def test_both_judges_compare_all_policies_and_the_base_ties_with_itself(done: Path) -> None:
    rows = {(row["policy"], row["scorer"]): row for row in evaluated(done)["comparisons"]}
    assert rows.keys() == {(p, judge) for p in ("base_again", "dpo", "sft") for judge in ("brisque", "learned")}
    assert all(row["prompts"] == photographs.COUNTS["test"] and row["seeds"] == 4 for row in rows.values())
    assert all(
        rows["base_again", j]["ci_low"] <= 0.5 <= rows["base_again", j]["ci_high"] for j in ("brisque", "learned")
    )


def test_alarms_safety_gate_and_report_have_their_figures(done: Path) -> None:
    assert any(alarm["by"].startswith("efficientnet_lite0") for alarm in evaluated(done)["alarms"])
    safety = json.loads((done / "metrics/audit.json").read_text())["safety"]
    assert {row["policy"] for row in safety} == {"base_again", "dpo", "sft"}
    assert all(row["images"] == 48 and row["missing"] == row["flagged"] == 0 for row in safety)
    verdicts = json.loads((done / "metrics/gate.json").read_text())["policies"]
    assert {len(row["rulings"]) for row in verdicts} == {2}
    assert "Photographs and damaged copies" in (done / "reports/report.html").read_text()
