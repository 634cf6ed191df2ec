"""The report's matrix, categories and judges: in-family cells are marked, every figure stands where it belongs."""

import re
from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from diffalign.reporting.format import chance
from diffalign.reporting.sections import judges
from stages import report
from tests.helpers import evaluations
from tests.helpers.report_inputs import ORACLE, Page, evaluation


def section(project: Params, name: str, **changes: Any) -> str:
    """One section's HTML, of results that differ in these keys."""
    write_json(Path("metrics/evaluate.json"), {**evaluation(), **changes})
    report.run(project)
    html = Path("reports/report.html").read_text()
    return html.split(f'<section id="{name}">')[1].split("</section>")[0] if f'id="{name}"' in html else ""


def words(html: str) -> str:
    return " ".join(Page(html.replace("<", " <")).text.split())


def of_judge(name: str, **changes: Any) -> dict[str, Any]:
    held_out = {"accuracy": 0.7, "ci_low": 0.6, "ci_high": 0.8, "pairs": 420, "tie_band": 0.0}
    return {**ORACLE, **held_out, "name": name, **changes}


def test_a_cell_for_each_policy_and_judge(project: Params) -> None:
    """dpo by the oracle 88.8%, in-family and told from 50%; by another judge 45% and not; sft by the oracle alone."""
    rows = [
        evaluations.comparison("dpo", in_family=True),
        evaluations.comparison("dpo", scorer="other", win_rate=0.45, ci_low=0.4, ci_high=0.5, p_holm=0.2),
        evaluations.comparison("sft"),
    ]
    learnt = {"dpo": {"method": "dpo", "seed": 0, "families": ["shapes"]}}
    both = [of_judge("oracle"), of_judge("other", families=["web"])]
    html = section(project, "matrix", comparisons=rows, rewards=both, policies=learnt)
    lines = re.findall(r"<tr>.*?</tr>", html, re.S)
    assert words(lines[0]) == "aligned by oracle shapes other web"
    assert words(lines[1]) == "dpo shapes 88.8% 85.0–92.0% in-family 45.0% 40.0–50.0%"
    assert words(lines[2]) == "sft 88.8% 85.0–92.0% –"
    assert "<b>88.8%</b>" in lines[1] and "<b>45.0%</b>" not in lines[1]
    assert re.findall(r'rate (\w+)" style="--tint: (\d+)%', lines[1]) == [("up", "23"), ("down", "3")]


def test_several_sets_have_a_table_each(project: Params) -> None:
    rows = [evaluations.comparison("dpo", set=name) for name in ("test", "parti")]
    html = section(project, "matrix", comparisons=rows)
    assert html.count("<table") == 2 and "<h3>parti</h3>" in html
    table = section(project, "win-rates", comparisons=rows)
    assert "<th>set</th>" in table and "<td>parti</td>" in table


def test_categories_have_bars_of_the_hero_and_a_table_of_all(project: Params) -> None:
    base = {key: evaluations.comparison("dpo")[key] for key in ("policy", "baseline", "scorer", "set")}
    rows = [
        {**base, "policy": policy, "category": kind, "prompts": 8, "wins": 6, "ties": 0, "losses": 2}
        | {"win_rate": 0.75, "ci_low": 0.5, "ci_high": 0.9}
        for policy in ("dpo", "sft")
        for kind in ("Animals", "<i>Arts</i>")
    ]
    html = section(project, "categories", categories=rows)
    bars, table = html.split("<details>")
    assert bars.count("<circle") == 2 and "Animals 8 prompts 75.0% 50.0–90.0%" in words(bars)
    assert table.count("<tr>") == 5 and "&lt;i&gt;Arts" in table
    assert section(project, "categories") == ""


def test_the_judges_say_what_they_learnt_from(project: Params) -> None:
    html = section(project, "judges", rewards=[of_judge("oracle", trained_on="Pick-a-Pic <v1>", tie_band=0.0125)])
    said = "Learnt from Pick-a-Pic <v1> Range: 0 to 1; scores within 0.013 tie; version 1."
    assert said in words(html) and "oracle 420 pairs 70.0% 60.0–80.0%" in words(html)


def test_ranges_in_words() -> None:
    found = [judges.span(*ends) for ends in ((0, 1), (None, 0.0), (1.5, None), (None, None))]
    assert found == ["0 to 1", "at most 0", "at least 1.5", "no bounds"]


def test_trainings_over_seeds_stand_apart(project: Params) -> None:
    counts = {"prompts": 320, "wins": 500, "ties": 0, "losses": 140, "win_rate": 0.78, "ci_low": 0.6, "ci_high": 0.9}
    row = {"baseline": "base", "scorer": "oracle", "set": "test", "policies": ["dpo", "sft"], "p": 0.03, **counts}
    html = section(project, "win-rates", over_seeds=[row])
    assert "dpo, sft over base oracle, p 0.03 78.0% 60.0–90.0%" in words(html)
    assert "Over training seeds" not in section(project, "win-rates")


def test_p_values_in_words() -> None:
    assert [chance(p) for p in (None, 0.0, 0.00099, 0.0123, 0.5, 1.0)] == [
        "–", "< 0.001", "< 0.001", "0.012", "0.5", "1",
    ]  # fmt: skip


def test_many_comparisons_keep_the_headline_judges_bars_only(project: Params) -> None:
    rows = [
        evaluations.comparison("dpo", scorer=judge, set=f"set{i}") for i in range(13) for judge in ("oracle", "other")
    ]
    html = section(project, "win-rates", comparisons=rows, head_to_heads=[])
    assert html.count("<circle") == 13 and html.count("<tr><td>dpo</td><td>base<") == 26
