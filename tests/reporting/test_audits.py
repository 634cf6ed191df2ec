"""The report's sections on safety and bias say what their files say, and are left out without them."""

from pathlib import Path
from typing import Any

import pytest

from diffalign.config.params import Params
from diffalign.core.files import write_json
from stages import report
from tests.helpers import audits
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, Page, write_inputs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return make_params(tmp_path, POLICIES, report=SETTINGS)


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
