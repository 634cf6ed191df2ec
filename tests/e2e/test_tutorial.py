"""docs/tutorial.md: every command of it, in a clone, as a reader runs them; what comes out is there and loads."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.e2e.test_docs import TEXTS, commands
from tests.helpers.clone import commit_all, copy_tracked, environment
from tests.helpers.project import REPO

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The clone, and each command's output."""
    folder = tmp_path_factory.mktemp("tutorial") / "clone"
    copy_tracked(folder)
    (folder / "assets").symlink_to(REPO / "assets")
    commit_all(folder)
    said: dict[str, str] = {}
    for command in (line for why, line in commands(TEXTS[REPO / "docs/tutorial.md"]) if why == "tutorial"):
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout + done.stderr
    return folder, said


def test_forty_pairs_become_a_judged_model(outputs: tuple[Path, dict[str, str]]) -> None:
    folder, said = outputs
    found = json.loads((folder / "metrics/ingest.json").read_text())
    assert found["rows"] == 40 and found["rejected"] == 0
    assert any("40 rows: 40 comparisons" in text for text in said.values())
    figures = json.loads((folder / "metrics/summary.json").read_text())["dpo"]
    assert figures["win_rate_low"] <= figures["win_rate"] <= figures["win_rate_high"]
    assert 0 <= figures["implicit_accuracy"] <= 1
    assert "photos" in (folder / "reports/report.html").read_text()


def test_the_checkpoint_is_one_file_with_all_parts(outputs: tuple[Path, dict[str, str]]) -> None:
    folder, _ = outputs
    (path,) = (folder / "exports").rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    for part in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        assert any(name.startswith(part) for name in names), part
