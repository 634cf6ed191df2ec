"""The control that must lose: trained on exchanged labels, the embedded model gets worse than the base."""

import json
from pathlib import Path

import pytest
import yaml

from diffalign.config.load import parse
from stages import evaluate, generate, ingest, precompute, score, train
from tests.helpers.project import REPO

pytestmark = pytest.mark.nightly


def test_swapped_labels_lose_to_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the demo's steps at 2.5 times its rate; in the study right labels win at lr 1e-4, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    (tmp_path / "assets").symlink_to(REPO / "assets")
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["policies"] = {
        "base": raw["policies"]["base"],
        "swapped": raw["policies"]["dpo"] | {"swap_labels": True, "steps": 30, "lr": 5.0e-5},
    }
    raw |= {"rewards": {"oracle": {}}, "reward_models": {}}
    raw["generate"] |= {"prompts": {"validation": 64}}
    raw["evaluate"] |= {"pairs": 50, "draws": 1}
    values = parse(raw)
    ingest.run(values)
    precompute.run(values)
    for policy in raw["policies"]:
        train.run(values, policy)
        generate.run(values, policy)
    score.run(values, "oracle")
    evaluate.run(values)
    (row,) = json.loads(Path("metrics/evaluate.json").read_text())["comparisons"]
    assert row["policy"] == "swapped"
    assert row["prompts"] == 64
    assert row["ci_high"] < 0.5
