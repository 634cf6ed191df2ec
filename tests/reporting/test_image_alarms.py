"""The report's alarms about images: the raised ones in words and at the head, all of them in a table."""

from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.core.files import write_json
from stages import report
from tests.helpers.report_inputs import Page, evaluation


def alarm(verdict: str, figure: float | None, **changes: Any) -> dict[str, Any]:
    row = {"name": "diversity", "policy": "dpo", "by": "pixels", "figure": figure, "low": None, "high": None}
    return row | {"threshold": 0.8, "verdict": verdict} | changes


def words(html: str) -> str:
    return " ".join(Page(html.replace("<", " <")).text.split())


def test_raised_alarms_are_in_words_and_at_the_head(project: Params) -> None:
    alarms = [
        alarm("raised", 0.5, high=0.6),
        alarm("quiet", 0.95, policy="sft", low=0.9, high=1.0),
        alarm("missing", None, name="copies", threshold=0.1),
    ]
    write_json(Path("metrics/evaluate.json"), {**evaluation(), "alarms": alarms})
    report.run(project)
    html = Path("reports/report.html").read_text()
    head, rest = html.split("<main>")
    assert "Careful: the images of dpo raised diversity: see Alarms about the images." in words(head)
    section = rest.split('<section id="image-alarms">')[1].split("</section>")[0]
    assert "Alarm diversity , dpo: images are 0.50 times as far from each other" in words(section)
    rows = [words(line) for line in section.split("<tr>")[2:]]
    assert rows[0].startswith("dpo diversity raised 0.5 (0.6) 0.8 pixels")
    assert rows[1].startswith("sft diversity quiet 0.95 (0.9 to 1) 0.8 pixels")
    assert "1 couldn't be measured" in words(section)
    assert rows[2].startswith("dpo copies missing – 0.1 pixels")


def test_no_alarm_is_said_and_nothing_measured_is_no_section(project: Params) -> None:
    write_json(Path("metrics/evaluate.json"), {**evaluation(), "alarms": [alarm("quiet", 0.9)]})
    report.run(project)
    html = Path("reports/report.html").read_text()
    assert "None was raised." in words(html) and "the images of" not in html.split("<main>")[0]
    write_json(Path("metrics/evaluate.json"), evaluation())
    report.run(project)
    assert 'id="image-alarms"' not in Path("reports/report.html").read_text()
