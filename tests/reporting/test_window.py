"""A report with every section, in a real browser: nothing but tables scrolls sideways, the contents lead everywhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffalign.core.files import write_json, write_text
from diffalign.reporting import material, page
from stages import report
from tests.helpers import audits, browser, evaluations
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, evaluation, write_inputs

LONG = "a_judge_of_a_very_long_name_that_no_phone_has_room_for"


def write_everything() -> None:
    """The metrics of every section but the study's and the data card's."""
    row = {key: evaluations.comparison("dpo")[key] for key in ("policy", "baseline", "scorer", "set", "prompts")}
    counts = {"wins": 6, "ties": 0, "losses": 2, "win_rate": 0.75, "ci_low": 0.5, "ci_high": 0.9}
    alarm = {"name": "diversity", "policy": "dpo", "by": LONG, "figure": 0.5, "low": None, "high": 0.6}
    skill = {"policy": "dpo", "scorer": "oracle", "skill": "count", "share": 0.4, "ci_low": 0.3, "ci_high": 0.5}
    other = evaluations.comparison("dpo", scorer=LONG, win_rate=0.3, ci_low=0.2, ci_high=0.4)
    results = evaluation()
    results |= {
        "comparisons": [*results["comparisons"], other],
        "rewards": [*results["rewards"], {**results["rewards"][0], "name": LONG, "trained_on": LONG + " " + LONG}],
        "categories": [{**row, **counts, "category": LONG}],
        "alarms": [{**alarm, "threshold": 0.8, "verdict": "raised"}],
        "skills": [{**skill, "images": 12, "prompts": 12}],
    }
    write_json(Path("metrics/evaluate.json"), results)
    write_json(Path("metrics/audit.json"), audits.audit())
    write_json(Path("metrics/people.json"), audits.people())
    ranked = {"accuracy": 0.6, "ci_low": 0.5, "ci_high": 0.7, "pairs": 80}
    model = {"name": LONG, "preferences": 1310, "prompts": 900, "step": 60, "before": ranked, "validation": ranked}
    write_json(Path("metrics/rewards/mine.json"), model)
    ruling = {"name": f"win rate by {LONG}", "figure": 0.5, "low": 0.4, "high": 0.6, "threshold": 0.5}
    rulings = [{**ruling, "verdict": "failed", "note": LONG}]
    of_all = [{"policy": name, "verdict": "failed", "rulings": rulings} for name in ("base_again", "dpo", "sft")]
    write_json(Path("metrics/gate.json"), {"schema": 1, "baseline": "base", "policies": of_all})


@pytest.mark.slow
@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium isn't installed")
def test_every_section_fits_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_everything()
    values = make_params(tmp_path, POLICIES, report=SETTINGS)
    found = material.read(replace(report.settings(values), reward_models=["mine"]))
    file = Path("everything.html")
    write_text(file, page.render(found))
    with browser.Browser() as chromium:
        for width in (375, 1280):
            for dark in (False, True):
                chromium.open(file, width, 800, dark)
                assert chromium.evaluate("document.documentElement.scrollWidth") <= width
                sections = chromium.evaluate("document.querySelectorAll('main > section').length")
                assert sections == len(page.SECTIONS) - 4, (
                    "all but the study's two, the data card's, personal policies'"
                )
                lost = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
                assert chromium.evaluate(lost) == 0
                wide = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre')
                    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
                assert chromium.evaluate(wide) == []
