"""The report's data card: what stages left of comparisons becomes tables, warnings and pictures."""

from pathlib import Path

import pytest

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes, write_json
from diffalign.data.comparisons.table import Comparison
from diffalign.data.comparisons.writer import Writer
from diffalign.evaluation import data_card
from stages import card, report
from tests.helpers import pickapic
from tests.helpers.comparison_rows import one
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, Page, write_inputs

HOSTILE = "<script>alert(1)</script>"
IMAGES = [pickapic.image(n) for n in range(2)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Three comparisons by one rater: a hostile prompt's, a share of 26 votes, a tie; and a reject."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    shown = {"image_a": sha256_bytes(IMAGES[0]), "image_b": sha256_bytes(IMAGES[1])}
    rows = [one(1, "b", prompt=HOSTILE, **shown), one(2, prompt="q", share=18 / 26, votes=26, axis="style", **shown)]
    rows.append(one(3, "tie", prompt="r", **shown))
    with Writer(card.COMPARISONS) as writer:
        for row in rows:
            writer.add(Comparison(**row | {"flags": ()}))
        for data in IMAGES:
            writer.add_image(sha256_bytes(data), data, 64, 64, "JPEG")
    counts = {"schema": 1, "rows": 4, "comparisons": 3, "rejects": {"no_label": 1}, "simulated": False}
    splits = {"train": 3, "validation": 0, "test": 0}
    write_json(card.METRICS, counts | {"splits": splits, "split_prompts": splits})
    write_json(Path("data/shards/manifest.json"), {"cut_prompts": {"tokenizer": 2}})
    return make_params(tmp_path, POLICIES, report=SETTINGS)


def section(values: Params) -> str:
    report.run(values)
    parts = Path("reports/report.html").read_text().split('<section id="')[1:]
    return next(part for part in parts if part.startswith('comparisons"'))


def test_the_report_shows_what_the_card_says(project: Params) -> None:
    card.run(project)
    html = section(project)
    text = " ".join(Page(html.replace("<", " <")).text.split())
    for said in (
        "rows read 4 comparisons 3 rejected: no label 1",
        "first image 1 second image 1",
        "tie 1 shares of votes 1 votes each 26",
        "first image won, of untied 50.0% (",
        "two answers agree",
        "style 1 (33.3%)",
        "longer than tokenizer reads, cut 2",
        "sizes 1 width 64 height 64 JPEG 2",
        "the test split has 0 prompts",
        "one rater gave all answers",
        "preferred 69.2% of 26 votes",
    ):
        assert said in text, said
    assert HOSTILE not in html and html.count('src="data:image/') == 6


def test_a_training_that_is_odd_is_said(project: Params) -> None:
    card.run(project)
    policy = project.policies["dpo"]
    write_json(Path("models/policies/dpo/policy.json"), {"pairs": 1})
    seen = policy.batch_size * policy.steps  # type: ignore[union-attr]
    assert f"dpo: each of 1 pairs is seen {seen} times" in section(project)


def test_without_a_card_there_is_no_section_and_a_damaged_one_is_named(project: Params) -> None:
    report.run(project)
    assert '<section id="comparisons"' not in Path("reports/report.html").read_text()
    write_json(data_card.FILE, {"schema": 1})
    with pytest.raises(UserError, match=r"data_card.json .*Make it again: `dvc repro --force --single-item card`"):
        report.run(project)
    card.METRICS.unlink()
    with pytest.raises(UserError, match=r"metrics/ingest.json can't be read"):
        card.run(project)
