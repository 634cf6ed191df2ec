"""What the report shows of probes and alarms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from diffalign.config.params import Params
from diffalign.core.files import write_bytes, write_text
from diffalign.generation.pipeline import png
from diffalign.monitoring.curve import Point
from diffalign.reporting import panels
from diffalign.reporting.charts import Series, heat, panel
from stages import report
from tests.helpers import browser
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, Page, write_inputs

LIMITS = {"winner_worse": 0.4, "saturation": 0.02, "divergence": 5.0, "reference_changed": 0.001}


def probed(step: int, rise: float) -> Point:
    bins = {f"t{b}/winner_relative": rise * b - 0.1 for b in range(1, 6)}
    return {
        "step": step,
        "broken": 0.0,
        "margin": 1e-4 * step,
        "margin_se": 1e-5,
        "accuracy": 0.6,
        "accuracy_low": 0.5,
        "accuracy_high": 0.7,
        "winner_relative": rise,
        "winner_relative_se": 0.01,
        "loser_relative": rise + 0.05,
        "loser_relative_se": 0.01,
        "saturated": 0.0,
        **bins,
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """dpo's winners get worse from step 100 on and its step is chosen; sft has no probes."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [json.loads(line) for line in Path("curves/dpo.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] % 50 == 0:
            point = probed(line["step"], line["step"] / 200)
            line |= {f"probe/{name}": value for name, value in point.items() if name != "step"}
            shade = np.full((64, 512, 3), line["step"], np.uint8)
            write_bytes(Path(f"models/policies/dpo/probe/step-{line['step']:06d}.png"), png(shade))
    write_text(Path("curves/dpo.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))
    policies = POLICIES | {"dpo": {"method": "dpo", "choose": "probe"}}
    return make_params(tmp_path, policies, probe={"every": 50})


def test_alarms_are_named_and_explained(project: Params) -> None:
    report.run(project)
    html = Path("reports/report.html").read_text()
    text = " ".join(Page(html).text.split())
    training = text.split("orange cells")[1]
    dpo, sft = training.split(" sft ")[0], training.split(" sft ")[1]
    assert "Alarm winner_worse, steps 100 to 150: the policy denoises held-out winners worse" in dpo
    assert "Published: step 50, the largest margin, 0.005, of 1 probes without an alarm, of 3 in all." in dpo
    assert "Careful: training dpo raised winner_worse: see Training." in text
    assert "Gradient norm" in dpo and "Gradient norm" in sft
    assert "step 50 step 100 step 150" in dpo
    assert "No probe was made, so nothing looked for alarms." in sft
    assert "Alarm" not in sft and "held-out draws" not in sft.split("</section>")[0]
    section = html.split('id="curves"')[1].split("</section>")[0]
    assert re.findall(r"<h4>([^<]+)</h4>", section.split("<h3>")[1]) == [
        "Loss, mean over pairs",
        "Implicit accuracy, share of training pairs",
        "Error change against the reference, mean squared error",
        "Gradient norm before clipping",
        "On fixed held-out draws",
        "Margin, mean squared error",
        "Implicit accuracy, share of pairs",
        "Error change, share of the reference&#39;s",
        "Saturated draws, share",
        "Winners&#39; error change by noise, share of the reference&#39;s",
        "As it trained: the same held-out prompts, the same noise",
    ]


def test_intervals_are_those_of_the_probe() -> None:
    """The accuracy's own bounds; 1.96 standard errors elsewhere."""
    accuracy = panels.over_probes([probed(50, 0.1)], "accuracy", "accuracy", "c0")
    margin = panels.over_probes([probed(50, 0.1)], "margin", "margin", "c0")
    assert accuracy is not None and (accuracy.low, accuracy.high) == (pytest.approx([0.5]), pytest.approx([0.7]))
    assert margin is not None and margin.low == pytest.approx([0.005 - 1.96e-5])
    assert panels.over_probes([probed(50, 0.1)], "score_oracle", "score", "c4") is None


def test_whiskers_stand_at_their_points() -> None:
    x, y = np.array([0.0, 10.0]), np.array([1.0, 2.0])
    svg = panel([Series("a", "c0", x, y, y - 1, y + 1)], "label")
    bars = re.findall(r'whisker c0" x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)" y2="([\d.]+)"', svg)
    (line,) = re.findall(r'class="mean c0" points="([^"]+)"', svg)
    assert len(bars) == 2 and 'class="raw' not in svg
    for (x1, x2, bottom, top), point in zip(bars, line.split(), strict=True):
        across, up = map(float, point.split(","))
        assert float(x1) == float(x2) == across
        assert float(bottom) - up == pytest.approx(up - float(top), abs=0.11)
        assert 8 <= float(top) < float(bottom) <= 176, "inside of the panel"


def test_the_cells_of_a_heat_strip() -> None:
    svg = heat([[0.5, 1.0], [-0.25, None]], ["most", "least"], [50, 100], "label")
    cells = re.findall(r'class="cell (c\d)".*?fill-opacity="([\d.]+)"><title>([^<]+)<', svg)
    expected = [("c1", "0.50", "step 50: +50.0%"), ("c1", "1.00", "step 100: +100.0%")]
    assert cells == [*expected, ("c3", "0.25", "step 50: -25.0%")]
    assert ">+100%<" in svg and "None" not in svg
    assert "nan" not in heat([[0.0]], ["one"], [1], "label")


def test_pictures_are_spread_and_end_with_the_last(tmp_path: Path) -> None:
    for step in range(10, 210, 10):
        write_bytes(tmp_path / f"step-{step:06d}.png", png(np.zeros((8, 8, 3), np.uint8)))
    shown = [picture["title"] for picture in panels.pictures(tmp_path, 100_000)]
    assert len(shown) == 6 and shown[-1] == "step 200" and shown == sorted(shown, key=lambda text: int(text[5:]))
    assert panels.pictures(tmp_path / "nothing", 100_000) == []


@pytest.mark.slow
@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium isn't installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_real_window(project: Params, width: int) -> None:
    report.run(project)
    with browser.Browser() as page:
        page.open(Path("reports/report.html"), width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('.cell').length") == 15
