"""The report's section of the study's personal policies: the matrix, own cells marked, seeds and verdicts in words."""

from pathlib import Path

import pytest

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.reporting import personal_file
from diffalign.reporting.sections import personal_study
from stages import report
from tests.helpers.report_inputs import Page
from tests.helpers.study_results import made_personal
from tests.helpers.world import HOSTILE


def test_the_section_says_what_was_found_and_hostile_text_stays_text(project: Params) -> None:
    report.run(project)
    assert 'id="personal-study"' not in Path("reports/report.html").read_text()
    found = made_personal()
    found["policies"][0]["label"], found["claims"][0]["claim"] = HOSTILE[0], HOSTILE[1]
    write_json(personal_file.FILE, found)
    report.run(project)
    html = Path("reports/report.html").read_text().split('<section id="personal-study">')[1].split("</section>")[0]
    page = Page(html.replace("<", " <"))
    text = " ".join(page.text.split())
    for said in (
        "6 can't be told",
        "are of one of 3 seeds: intervals are over prompts and don't cover another seed",
        "policy by left by right by large by pale",
        "80 steps 100.0% 91.2–100.0% own 50.0%",
        "left's own policy beats the shared policy: 100.0% (91.2–100.0%), 1 of 3 seeds: can't be told",
        HOSTILE[0],
        HOSTILE[1],
    ):
        assert said in text or said in page.text, said
    assert html.count('<span class="tag">own</span>') == 1 + 12, "one of them explains the mark"
    assert not [tag for tag, _ in page.tags if tag in ("script", "style", "iframe")]


def test_a_quick_look_and_lacking_seeds_are_said() -> None:
    about = personal_study.about(made_personal() | {"steps": 2, "seeds": [0, 2]})
    assert "14 policies, 2 steps each," in about and "are of 2 of 3 seeds, which intervals cover" in about
    assert "are of 3 seeds, which" in personal_study.about(made_personal() | {"seeds": [0, 1, 2]})


def test_another_versions_file_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "personal.json", made_personal() | {"schema": 0})
    with pytest.raises(UserError, match=r"schema: .* found 0.*study --only personal\) or remove it"):
        personal_file.read(tmp_path / "personal.json")
