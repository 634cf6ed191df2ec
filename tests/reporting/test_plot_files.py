"""DVC's own plots: their data, and the page that `dvc plots show` makes of them, which loads nothing."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffalign.core.files import write_json_lines
from stages import report
from tests.helpers.browser import PROGRAM, Browser
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs

ROWS = [
    {"step": 0, "loss": 0.7},
    {"step": 5, "loss": 0.6, "probe/accuracy": 0.5, "probe/winner_relative": -0.1, "probe/loser_relative": 0.0},
    {"step": 9, "loss": 0.5, "probe/accuracy": 0.75, "probe/winner_relative": -0.2, "probe/loser_relative": 0.0},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    """A folder with a report's outs and what dvc.yaml says of plots, without the stages."""
    folder = tmp_path_factory.mktemp("plots")
    write_inputs(folder)
    write_json_lines(folder / "curves/dpo.jsonl", ROWS)
    values = make_params(folder, POLICIES, report=SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.run(values)
    shutil.copytree(repo / ".dvc/plots", folder / ".dvc/plots")
    (folder / ".dvc/config").write_text(
        (repo / ".dvc/config").read_text().replace("[core]\n", "[core]\n    no_scm = true\n")
    )
    declared = yaml.safe_load((repo / "dvc.yaml").read_text())
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": declared["plots"]}))
    (folder / "runs").mkdir()
    return folder


def rows(project: Path, name: str) -> list[dict[str, Any]]:
    return list(json.loads((project / f"reports/plots/{name}.json").read_text()))


def test_each_plot_of_dvc_yaml_has_its_data_and_its_axes(project: Path) -> None:
    """dpo was probed at two of its steps; sft wasn't."""
    plots = {Path(key).stem: value for one in yaml.safe_load((project / "dvc.yaml").read_text())["plots"]
             if isinstance(one, dict) for key, value in one.items()}  # fmt: skip
    assert {path.stem for path in (project / "reports/plots").iterdir()} == set(plots)
    for name, plot in plots.items():
        assert {plot["x"], plot["y"], "policy"} <= set(rows(project, name)[0]), name
        assert plot["title"] and plot["x_label"] and plot["y_label"]
    assert rows(project, "accuracy") == [
        {"policy": "dpo", "step": 5, "accuracy": 0.5},
        {"policy": "dpo", "step": 9, "accuracy": 0.75},
    ]
    assert [row["loss"] for row in rows(project, "loss") if row["policy"] == "dpo"] == [0.7, 0.6, 0.5]
    assert {"policy": "dpo", "judge": "oracle", "win_rate": 87.5, "low": 71.0, "high": 98.0} in rows(
        project, "win_rates"
    )


def shown(project: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show"], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and done.stdout.strip().endswith("runs/plots/index.html")
    return project / "runs/plots/index.html"


def test_the_page_of_dvc_plots_needs_no_network(project: Path) -> None:
    text = shown(project).read_text()
    assert re.findall(r'(?:src|href)="([^"]+)"', text) == ["static/workspace_reports_grid.png"]
    assert len(re.findall(r"vegaEmbed\('#", text)) == 4


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
def test_a_real_browser_draws_the_plots(project: Path) -> None:
    """A line for each trained policy, an interval for each compared one; a plot without rows leaves no trace."""
    (project / "reports/plots/winner_change.json").write_text("[]")
    page = shown(project)
    with Browser() as browser:
        browser.open(page)
        drawn = "[...document.querySelectorAll('{}')].map(one => one.textContent)"
        assert [title.split(",")[0] for title in browser.evaluate(drawn.format("h2"))] == [
            "Win rate over the baseline",
            "Training loss",
            "Implicit accuracy on held-out pairs",
        ]
        assert browser.evaluate("document.querySelectorAll('svg circle').length") == 3
        assert browser.evaluate("document.querySelectorAll('svg polyline').length") == 3
        assert all(url.startswith("file://") for url in browser.requests)
