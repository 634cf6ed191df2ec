"""The report's section on reward models has each one's accuracy before and after its training."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.reporting import material, page
from stages import report
from tests.helpers.report_inputs import Page


def test_accuracy_before_and_after(project: Params) -> None:
    settings = replace(report.settings(project), reward_models=["mine"])
    before, after = (
        {"accuracy": a, "ci_low": a - 0.1, "ci_high": a + 0.1, "loss": 0.7, "pairs": 80} for a in (0.5, 0.65)
    )
    counts = {"preferences": 1310, "prompts": 900, "step": 60, "images": 2000}
    with pytest.raises(UserError, match=r"rewards/mine\.json"):
        material.read(settings)
    write_json(Path("metrics/rewards/mine.json"), {"name": "mine", **counts, "before": before, "validation": after})
    html = page.render(material.read(settings)).split('<section id="reward-models">')[1].split("</section>")[0]
    text = " ".join(Page(html).text.split())
    assert "mine 1,310 comparisons for 900 prompts before training 80 pairs 50.0% 40.0–60.0%" in text
    assert "at step 60 80 pairs 65.0% 55.0–75.0%" in text


def test_without_any_there_is_no_section(project: Params) -> None:
    settings = replace(report.settings(project), reward_models=[])
    assert 'id="reward-models"' not in page.render(material.read(settings))
