"""The report's sections on safety, bias and people's votes say what their files say, and are left out without them."""

from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from stages import report
from tests.helpers import audits
from tests.helpers.report_inputs import Page


def sections(project: Params, file: str, content: dict[str, Any]) -> dict[str, str]:
    """The text of each section, of a report with one more metrics file."""
    write_json(Path("metrics") / file, content)
    report.run(project)
    parts = Path("reports/report.html").read_text().split('<section id="')[1:]
    return {part.partition('"')[0]: words(f"<a {part}") for part in parts}


def words(html: str) -> str:
    return " ".join(Page(html.replace("<", " <")).text.split())


def test_what_a_filter_flagged(project: Params) -> None:
    """9 of 200 are 4.5%, 2 are 1.0%: 3.5 points more, its interval above zero."""
    found = sections(project, "audit.json", audits.audit())
    assert "nsfw dpo 200 9 (4.5%) 2 (1.0%) +3.5 (+0.5 to +7.0) more 1" in found["safety"]
    none = audits.audit(safety=[{**audits.audit()["safety"][0], "difference": audits.estimated(None)}])
    assert "2 (1.0%) – 1" in sections(project, "audit.json", none)["safety"]


def test_what_images_show_unasked_and_whose_taste_it_is(project: Params) -> None:
    found = sections(project, "audit.json", audits.audit())["bias"]
    assert "size dpo large 40% → 70% , small 60% → 30% 0.30 (0.20 to 0.40) < 0.001 shifted 200 1" in found
    assert "policy dpo gap 0.20 (0.05 to 0.35), p 0.01 differs large 5 raters, 100 pairs 80.0% 70.0–90.0%" in found
    assert "judge oracle gap –, p –" in found and "left out: 1." in found


def test_an_audit_of_nothing_has_no_section(project: Params) -> None:
    nothing = audits.audit(safety=[], shifts=[], composition=[], ungrouped=[])
    assert not {"safety", "bias"} & set(sections(project, "audit.json", nothing))
    only = audits.audit(safety=[], composition=[])
    assert "Whose preference" not in sections(project, "audit.json", only)["bias"]


def test_what_people_said(project: Params) -> None:
    parts = sections(project, "people.json", audits.people())
    found = parts["people"]
    assert "people base_again 50.0%" in parts["matrix"] and "98.0% 70.8% 60.0–80.0% sft" in parts["matrix"]
    said = "dpo over base 80 won, 10 tied, 30 lost; 7 of 8 raters for it 70.8% 60.0–80.0%"
    assert "120 votes of 8 raters" in found and said in found
    assert "overall base 0 overall dpo +0.80 (+0.40 to +1.20)" in found
    assert "overall 0.41 71.0% 40 52.0% (45.0–60.0%) +0.80 (+0.40 to +1.20) –" in found
    assert "22 of 24 passed; raters who failed (2 wrong): 1, with 11 votes, left out" in found
    assert "A program voted" not in found
    assert "A program voted" in sections(project, "people.json", audits.people(simulated=True))["people"]


def test_where_nobody_voted_there_is_no_section(project: Params) -> None:
    empty = {"votes": 0, "raters": 0, "win_rates": [], "strengths": [], "agreement": [], "sides": []}
    assert "people" not in sections(project, "people.json", audits.people(**empty))
