"""The report's section on personal policies: a cell a policy and rater, own ones marked, the diagonal counted."""

from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from stages import report
from tests.helpers.report_inputs import Page, evaluation


def row(policy: str, rater: str, rate: float, own: bool) -> dict[str, Any]:
    counts = {"prompts": 10, "wins": 5, "ties": 0, "losses": 5, "ci_low": rate - 0.1, "ci_high": rate + 0.1}
    about = {"policy": policy, "rater": rater, "own": own, "baseline": "base", "scorer": "raters", "set": "test"}
    return {**about, **counts, "win_rate": rate}


def test_own_cells_are_marked_and_the_diagonal_is_counted(project: Params) -> None:
    """Left's own policy wins most by left; right's own doesn't by right."""
    rows = [row("dpo", "left", 0.7, True), row("dpo", "right", 0.6, False)]
    rows += [row("sft", "left", 0.4, False), row("sft", "right", 0.55, True)]
    write_json(Path("metrics/evaluate.json"), {**evaluation(), "by_rater": rows})
    report.run(project)
    section = Path("reports/report.html").read_text().split('<section id="personal">')[1].split("</section>")[0]
    text = " ".join(Page(section.replace("<", " <")).text.split())
    assert "policy left right dpo 70.0% 60.0–80.0% own 60.0% 50.0–70.0% sft 40.0%" in text
    assert "By 1 of 2 raters with a policy of their own" in text
    assert section.count('<span class="tag">own</span>') == 3, "one of them explains the mark"


def test_without_raters_there_is_no_section(project: Params) -> None:
    report.run(project)
    assert 'id="personal"' not in Path("reports/report.html").read_text()
