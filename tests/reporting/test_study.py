"""The study's section of the report: its figures, its verdicts in words, and text that stays text."""

from pathlib import Path
from typing import Any

import pytest

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.reporting import study_file
from diffalign.reporting.sections import study as study_page
from diffalign.reporting.study_file import Study
from stages import report
from tests.helpers.report_inputs import Page
from tests.helpers.study_results import made
from tests.helpers.world import HOSTILE


def section(values: Params, found: dict[str, Any]) -> str:
    write_json(Path("metrics/study.json"), found)
    report.run(values)
    return Path("reports/report.html").read_text().split('<section id="study">')[1].split("</section>")[0]


def test_without_a_study_there_is_no_section(project: Params) -> None:
    report.run(project)
    assert 'id="study"' not in Path("reports/report.html").read_text()


def test_the_section_says_what_was_found(project: Params) -> None:
    html = section(project, made())
    text = " ".join(Page(html).text.split())
    for said in (
        "2 reproduced",
        "DPO beats the base: 100.0% (91.2–100.0%): holds",  # Wilson's interval for 40 of 40
        "SFT beats the base: 0.0% (0.0–8.8%): fails",
        "not run yet",
        "winner_worse from step 50",
        "71.0%",
        "-1.5e-03",
        "whose mean score is 0.500",
    ):
        assert said in text, said
    assert html.count('<svg class="bar"') >= 2
    assert "Three training seeds" in text  # dpo is one of its runs


def test_a_group_of_which_nothing_was_run_isnt_shown() -> None:
    found = made()
    del found["runs"]["dpo"]
    titles = [group["title"] for group in study_page.section(Study.model_validate(found))["groups"]]
    expected = ["DPO, fine-tuning on winners, and the base", "Three training seeds", "Each objective, at equal steps"]
    expected += [
        "Reward against the distance to the reference",
        "Fine-tuning on curated images: the share kept, by votes",
    ]
    assert titles == expected


def test_a_quick_look_says_so() -> None:
    assert "2 steps each" in study_page.about(made() | {"steps": 2})


def test_hostile_text_stays_text(project: Params) -> None:
    found = made()
    found["runs"]["dpo"]["label"], found["commit"] = HOSTILE[0], HOSTILE[1]
    found["runs"]["sft"]["alarms"][0]["name"] = HOSTILE[2]
    found["groups"][0]["title"] = HOSTILE[4]
    claim = found["groups"][0]["claims"][0]
    claim["claim"], claim["source"], claim["lines"][0]["seen"] = HOSTILE[0], HOSTILE[1], HOSTILE[2]
    page = Page(section(project, found))
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4]):
        assert text in page.text, text
    assert not [tag for tag, _ in page.tags if tag in ("script", "style", "iframe")]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


def test_another_versions_study_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", made() | {"schema": 0})
    with pytest.raises(UserError, match=r"schema: input should be 2, found 0.*pipeline\.py study\) or remove it"):
        study_file.read(tmp_path / "study.json")
