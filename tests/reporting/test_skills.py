"""The report's section on skills has a bar for every policy's share of every skill."""

from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from stages import report
from tests.helpers.report_inputs import Page, evaluation


def skill(policy: str, name: str, share: float) -> dict[str, Any]:
    ends = {"ci_low": share - 0.05, "ci_high": share + 0.05}
    return {"policy": policy, "scorer": "oracle", "skill": name, "share": share, **ends, "images": 12, "prompts": 12}


def test_every_policy_has_its_bar(project: Params) -> None:
    rows = [
        skill(policy, name, share) for name in ("count", "colour") for policy, share in (("base", 0.4), ("dpo", 0.9))
    ]
    write_json(Path("metrics/evaluate.json"), {**evaluation(), "skills": rows})
    report.run(project)
    section = Path("reports/report.html").read_text().split('<section id="skills">')[1].split("</section>")[0]
    text = " ".join(Page(section).text.split())
    said = "base 40.0% 35.0–45.0% dpo 90.0% 85.0–95.0%"
    assert f"count 12 prompts {said} colour 12 prompts {said}" in text
    assert section.count("<circle") == 4 and 'class="half"' not in section, "half isn't chance here"


def test_without_questions_there_is_no_section(project: Params) -> None:
    report.run(project)
    assert 'id="skills"' not in Path("reports/report.html").read_text()
