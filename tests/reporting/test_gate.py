"""The report's section on the gate shows each condition's figure and verdict, and the head says who passes."""

from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from diffalign.evaluation.verdicts import Verdicts
from diffalign.reporting.sections import gate
from stages import report
from tests.helpers.report_inputs import Page


def ruling(verdict: str, figure: float | None, note: str = "") -> dict[str, Any]:
    ends = {"low": None, "high": None} if figure is None else {"low": figure - 0.05, "high": figure + 0.05}
    return {"name": "win rate by oracle", "figure": figure, **ends, "threshold": 0.5, "verdict": verdict, "note": note}


def verdicts(*rulings: dict[str, Any], verdict: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "baseline": "base",
        "policies": [{"policy": "dpo", "verdict": verdict, "rulings": list(rulings)}],
    }


def test_every_condition_has_its_row(project: Params) -> None:
    """A condition of which there are two rulings has two; a policy that it doesn't speak of has an empty cell."""
    found = verdicts(ruling("failed", 0.831), ruling("missing", None, "<b>never</b> judged"), verdict="failed")
    sft = {"policy": "sft", "verdict": "passed", "rulings": [ruling("passed", 0.7)]}
    found["policies"].append(sft)
    write_json(Path("metrics/gate.json"), found)
    report.run(project)
    html = Path("reports/report.html").read_text()
    section = html.split('<section id="gate">')[1].split("</section>")[0]
    rows = [" ".join(Page(row.replace("<", " <")).text.split()) for row in section.split("<tr>")[1:]]
    assert rows == [
        "condition dpo failed sft passed",
        "win rate by oracle failed 0.831 (0.781 to 0.881) passed 0.7 (0.65 to 0.75)",
        "win rate by oracle missing – <b>never</b> judged",
    ]
    assert "&lt;b&gt;never" in section and section.endswith('<td class="ruling"></td></tr>\n</table></div>\n')
    assert "The gate doesn't let dpo pass: 1 failed and 1 missing of 2 conditions." in Page(html).text


def test_without_a_gate_there_is_no_section(project: Params) -> None:
    report.run(project)
    html = Path("reports/report.html").read_text()
    assert 'id="gate"' not in html and "The gate" not in html


def test_the_heads_line_by_hand() -> None:
    passed = Verdicts.model_validate(verdicts(ruling("passed", 0.8), ruling("passed", 0.7), verdict="passed"))
    assert gate.summary(passed, "dpo") == "The gate lets dpo pass: all 2 conditions hold."
    assert gate.summary(passed, "sft") == ""


def test_figures_have_three_decimals_at_most() -> None:
    found = [gate.number(value) for value in (None, 0.4941, -0.0126, -0.0001, 1.0, 12.0)]
    assert found == ["–", "0.494", "-0.013", "0", "1", "12"]
