"""The report: what it says follows from the figures, nothing in it is loaded or run, no caption breaks out."""

import base64
import io
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal, get_args

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from diffalign.config.load import load
from diffalign.config.params import Params
from diffalign.config.params import Policy as PolicyUnion
from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.core.files import write_json, write_text
from diffalign.evaluation.results import Comparison
from diffalign.reporting import format, head, made_by, material, page
from diffalign.reporting.ingested import Ingested, read_ingested
from diffalign.reporting.material import roles
from diffalign.reporting.sections import before_after, data, win_rates
from stages import report
from tests.helpers import browser
from tests.helpers.project import make_params
from tests.helpers.report_inputs import (
    POLICIES,
    PROMPTS,
    SCORES,
    SETTINGS,
    SHADE,
    Page,
    evaluation,
    write_inputs,
)
from tests.helpers.world import CAPTIONS, HOSTILE


def written(values: Params) -> str:
    report.run(values)
    return Path("reports/report.html").read_text()


def test_the_headline_says_what_the_figures_say(project: Params) -> None:
    page = Page(written(project))
    text = " ".join(page.text.split())
    assert "dpo beats base: its win rate is 87.5% by the oracle score" in text
    assert "95% interval 71.0–98.0%; ties count half; 12 images for 12 prompts of the test split" in text
    beta = f"β {project.policies['dpo'].beta:g}"
    for said in ("66.1%", "75.1%", "58.3%", "simulated", "in-family", "A/A control", "2,250", beta, "torch"):
        assert said in text, said
    assert "oracle couldn't judge 5 of 17 images of dpo against base: left out." in text


@pytest.mark.parametrize(
    ("low", "high", "verb"), [(0.51, 0.9, "beats"), (0.2, 0.49, "loses to"), (0.5, 0.9, "can't be told from")]
)
def test_the_verb_follows_the_interval(low: float, high: float, verb: str) -> None:
    assert head.verb(Comparison(**{**evaluation()["comparisons"][1], "ci_low": low, "ci_high": high})) == verb


def test_roles_come_from_methods_and_order(repo: Path) -> None:
    default = load(repo / "params.yaml").policies
    base = default["base"].model_copy(update={"init": "m", "noise_seed": 0})
    policies = {
        "base": base,
        "twin": base,
        "again": base.model_copy(update={"noise_seed": 1}),
        "other": base.model_copy(update={"init": "n", "noise_seed": 1}),
        "sft": default["sft"],
        "dpo": default["dpo"],
    }
    sampling = {name: {"rules": {}} for name in policies}
    who = roles(policies, "base", sampling)
    assert (who.hero, who.trained, who.controls) == ("sft", ("sft", "dpo"), ("again",))
    assert roles(policies, "base", {**sampling, "again": {"rules": {"best_of": {}}}}).controls == ()
    assert roles({"base": base}, "base", sampling).hero is None


class Fifth(Trained):
    """A method that nobody knew."""

    title: ClassVar[str] = "Fifth method"
    method: Literal["fifth"]
    strength: float
    rule: str | None


def test_a_fifth_method_has_a_line_in_the_report(project: Params) -> None:
    """Its title and its keys are its settings': no table of methods needs an entry."""
    shared = {key: getattr(project.policies["dpo"], key) for key in Trained.model_fields}
    policy = Fifth(**shared | {"method": "fifth"}, strength=0.25, rule=None)
    settings = replace(report.settings(project), policies={**project.policies, "dpo": policy})
    text = Page(page.render(material.read(settings))).text
    assert (
        f"Fifth method, full, {policy.steps:,} steps, batch {policy.batch_size}, lr {policy.lr:g}, strength 0.25"
        in text
    )


def test_every_method_has_a_title(repo: Path) -> None:
    trained = [policy for policy in get_args(get_args(PolicyUnion)[0]) if issubclass(policy, Trained)]
    assert len({policy.title for policy in trained}) == len(trained) >= 4


def test_how_the_images_were_made_is_said(project: Params) -> None:
    how = "sampler dpmpp_2m (spacing trailing), 2 steps, guidance {}, 64 × 64 pixels, float32"
    assert f"How the images were made: {how.format(4)}." in " ".join(Page(written(project)).text.split())
    path = Path("images/dpo/manifest.json")
    write_json(path, json.loads(path.read_text()) | {"guidance": 7.5})
    with pytest.raises(UserError, match=r"images/dpo wasn't made as params\.yaml asks for now: guidance"):
        report.run(project)
    overrides = {"dpo": {"guidance": 7.5}}
    values = make_params(Path.cwd(), POLICIES, report=SETTINGS, generate={"overrides": overrides})
    text = " ".join(Page(written(values)).text.split())
    assert f"base: {how.format(4)}; base_again: {how.format(4)}; dpo: {how.format(7.5)}; sft: {how.format(4)}." in text


def test_a_rule_of_sampling_is_named_with_its_settings() -> None:
    made = {"sampler": {"name": "ddim"}, "steps": 20, "guidance": 4.0, "resolution": 64, "dtype": "float32"}
    said = win_rates.how(made | {"rules": {"best_of": {"reward": "oracle", "n": 4}, "mix_base": {"power": 2.0}}})
    assert "guidance 4, best_of (reward oracle, n 4), mix_base (power 2.0), 64 × 64" in said


def test_counts_of_files_are_a_table_of_their_own() -> None:
    files = [{"file": "a.parquet", "known_by": "its name", "rows": 1200, "split": "test"}]
    counts, *others = data.tables(
        {"schema": 1, "rows": 1200, "file_splits": files, "rejects": {}, "splits": {"test": 3}}
    )
    assert counts == {"title": "Counts", "rows": [("Rows", "1,200")]}
    assert [table["title"] for table in others] == ["File splits", "Rejects", "Splits"]
    assert others[0]["rows"] == [("a.parquet", "known by its name, rows 1,200, split test")]
    assert others[1]["rows"] == [("none", "")]


def test_counts_of_the_data_card_are_not_said_twice() -> None:
    ingested = Ingested.model_validate(
        {"schema": 1, "rows": 4, "comparisons": 3, "rejects": {}, "simulated": False, "images": 6}
    )
    shown = {card: data.context(SimpleNamespace(ingested=ingested, card=card))["data"][0]["rows"] for card in (None, 1)}
    assert ("Rows", "4") in shown[None] and ("Images", "6") in shown[None]
    assert ("Rows", "4") not in shown[1] and ("Images", "6") in shown[1]


def test_counts_may_be_unknown(tmp_path: Path) -> None:
    """The split of a file whose rows are split by their prompts' hash."""
    counts = {"schema": 1, "rows": 1, "comparisons": 1, "rejects": {}, "simulated": False}
    write_json(tmp_path / "ingest.json", counts | {"file_splits": [{"file": "a.parquet", "split": None}]})
    assert read_ingested(tmp_path / "ingest.json").rows == 1


def test_every_section_has_a_template_and_a_heading(project: Params) -> None:
    html = written(project)
    templates = {path.stem for path in Path(page.__file__).parent.glob("templates/sections/*.html")}
    assert templates == {section.__name__.rpartition(".")[2] for section in page.SECTIONS}
    found = material.read(report.settings(project))
    present = [section for section in page.SECTIONS if section.context(found) is not None]
    assert html.count("<section id=") == html.count("<h2>") == len(present) >= 9


def test_the_contents_lead_to_every_section(project: Params) -> None:
    html = written(project)
    contents = re.findall(r'<li><a href="#([\w-]+)">(.*?)</a></li>', html.split("<nav")[1].split("</nav>")[0])
    assert contents == re.findall(r'<section id="([\w-]+)">\s*<h2>(.*?)</h2>', html) and len(contents) > 5
    assert len(set(contents)) == len(contents)


def test_a_template_without_a_heading_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with <section"):
        page.heading(Markup("<h2>Title</h2>"))


def test_a_control_that_misses_a_half_is_pointed_out(project: Params) -> None:
    results = evaluation()
    results["comparisons"][0] |= {"ci_low": 0.52, "ci_high": 0.7}
    write_json(Path("metrics/evaluate.json"), results)
    assert "the A/A control base_again won 50.0% (52.0–70.0%), which misses 50%" in Page(written(project)).text


def test_images_that_were_made_differently_are_pointed_out(project: Params) -> None:
    results = evaluation()
    results["comparisons"][1]["differs"] = ["sampler", "steps"]
    write_json(Path("metrics/evaluate.json"), results)
    assert "images of dpo and base were made with different sampler, steps" in Page(written(project)).text


def test_captions_titles_and_reasons_are_text_and_nothing_else(project: Params) -> None:
    html = written(project)
    page = Page(html)
    for text in [*HOSTILE, SETTINGS["title"], "<script>alert(2)</script>"]:
        assert text in page.text, text
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "form", "base")]
    assert [tag for tag, _ in page.tags].count("style") == html.count("</style>") == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "49" not in [word for word in page.text.split() if word == "49"]  # a template in a caption isn't run
    captions = [attributes for tag, attributes in page.tags if tag == "figcaption"]
    assert captions and all(attributes.get("dir") == "auto" for attributes in captions)


def test_nothing_is_loaded(project: Params) -> None:
    html = written(project)
    page = Page(html)
    loaded = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "poster", "action", "data") if key in a]
    assert loaded and all(url and url.startswith(("data:", "#")) for url in loaded)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert images and all((a["loading"], a["decoding"]) == ("lazy", "async") for a in images)
    assert not re.findall(r"url\(|@import|//[a-z]", html.split("<style>")[1].split("</style>")[0])
    assert any("default-src 'none'" in (a.get("content") or "") for tag, a in page.tags if tag == "meta")


def test_the_grid_shows_the_extremes_and_as_many_random_ones_as_asked(project: Params) -> None:
    """dpo's gains are -0.01 i for the first two captions and 0.01 i after: best 11, 10, 9 and worst 1, 0."""
    html = written(project)
    sections = re.split(r"<h3>", html.split('id="before-after"')[1].split("</section>")[0])[1:]
    shown = {
        part.split(" <")[0]: [Page(c).text for c in re.findall(r"<figcaption.*?</figcaption>", part)]
        for part in sections
    }
    assert shown["Best"] == [CAPTIONS[i] for i in (11, 10, 9)]
    assert shown["Worst"] == [CAPTIONS[i] for i in (1, 0)]
    assert sorted(shown["At random"]) == sorted(PROMPTS)
    cards = re.findall(r'<figure class="card">.*?</figure>', sections[1], re.S)
    images = [base64.b64decode(uri) for uri in re.findall(r"base64,([^\"]+)", cards[0])]
    assert [Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) for data in images] == [
        (SHADE[name], 11, 90) for name in ("base", "dpo", "sft")
    ]


def test_the_trained_policies_are_compared_with_each_other(project: Params) -> None:
    page = written(project)
    assert "Head to head: dpo beats sft, 87.5% (70.0–97.0%)." in re.sub(r"\s+", " ", Page(page).text)
    rows = re.findall(r"<tr><td>dpo</td><td>sft</td>.*?</tr>", page, re.S)
    assert re.findall(r'class="number">([^<]+)<', rows[0])[:5] == ["10", "1", "1", "5", "87.5%"]


def test_the_picture_for_the_readme(project: Params) -> None:
    written(project)
    with Image.open("reports/grid.png") as image:
        assert image.width > 1000 and image.height > 600
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(SHADE["base"], 11, 90), (SHADE["dpo"], 11, 90)} <= colours
    assert (SHADE["sft"], 11, 90) not in colours


def test_it_is_written_the_same_again(project: Params) -> None:
    written(project)
    before = {name: Path("reports", name).read_bytes() for name in ("report.html", "grid.png")}
    written(project)
    assert {name: Path("reports", name).read_bytes() for name in before} == before


def test_without_judges_it_shows_random_prompts_and_no_win_rate(project: Params) -> None:
    values = project.model_copy(update={"rewards": {}})
    write_json(Path("metrics/evaluate.json"), {**evaluation(), "comparisons": [], "rewards": []})
    html = written(values)
    page = Page(html)
    assert head.UNJUDGED in page.text and head.HOW_TO_JUDGE in page.text
    assert "At random" in page.text and "largest gains" not in page.text
    assert "raters are simulated" in page.text and "in-family" not in page.text
    assert '<ul class="facts">' not in html  # the policy's opinion of itself is no headline
    names = len(before_after.shown(material.read(report.settings(values))))
    assert f"--card-width: {2 + 11.6 * names}rem" in html  # twice as wide as beside scores
    slots = len(material.read(report.settings(values)).galleries["base"].entries)
    assert html.count('<figure class="card">') == min(3 + 2 + 2 * 17, slots)


def test_an_accuracy_of_few_pairs_is_no_figure_of_the_head(project: Params) -> None:
    found = evaluation()
    accuracy = next(row for row in found["implicit_reward"] if row["policy"] == "dpo")
    for pairs, shown in ((head.FEW, True), (head.FEW - 1, False)):
        accuracy["pairs"] = pairs
        write_json(Path("metrics/evaluate.json"), found)
        labels = [fact["label"] for fact in head.facts(material.read(report.settings(project)))]
        assert ("implicit-reward accuracy of dpo" in labels) == shown


def test_when_on_what_and_from_what_it_was_made(project: Params) -> None:
    """Of stages of this DAG the newest times count; those of other policies, and the report's own, don't."""
    lines = [
        {"stage": "ingest", "seconds": 500.0, "cached": False, "at": "2026-01-01T00:00:00+00:00"},
        {"stage": "ingest", "seconds": 30.0, "cached": False, "at": "2026-01-02T10:00:00+00:00"},
        {"stage": "train@dpo", "seconds": 90.5, "cached": False, "at": "2026-01-02T10:02:00+00:00"},
        {"stage": "train@gone", "seconds": 90.0, "cached": False, "at": "2026-01-03T10:02:00+00:00"},
        {"stage": "report", "seconds": 3.0, "cached": False, "at": "2026-01-03T10:02:00+00:00"},
    ]
    write_text(Path("runs/timings.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))
    text = " ".join(Page(written(project)).text.split())
    assert "Made 2026-01-02 10:02 UTC, 2 min 0 s for all stages; dpo trained on" in text
    assert "2,238 comparisons of raw; commit none." in text
    Path("runs/timings.jsonl").unlink()
    assert "for all stages" not in written(project)


def test_durations_in_words() -> None:
    assert [format.duration(s) for s in (7.4, 591, 12_000)] == ["7 s", "9 min 51 s", "3 h 20 min"]


def test_what_people_answered_is_not_called_simulated(project: Params) -> None:
    counts = json.loads(Path("metrics/ingest.json").read_text())
    write_json(Path("metrics/ingest.json"), counts | {"simulated": False, "notes": []})
    page = Page(written(project))
    assert "raters are simulated" not in page.text and "oracle is in-family" not in page.text


def test_images_of_policies_that_share_their_noise_are_said_to(project: Params) -> None:
    only = {name: project.policies[name] for name in ("base", "base_again")}
    values = project.model_copy(update={"policies": only})
    results = evaluation()
    write_json(
        Path("metrics/evaluate.json"),
        results | {"comparisons": results["comparisons"][:1], "head_to_heads": [], "implicit_reward": []},
    )
    assert "Same prompt, different noise: base, base_again." in Page(written(values)).text
    manifest = json.loads(Path("images/base_again/manifest.json").read_text())
    write_json(Path("images/base_again/manifest.json"), manifest | {"noise_seed": 0})
    assert "Same prompt, same initial noise: base, base_again." in Page(written(values)).text


def test_results_that_are_missing_are_shown_as_missing(project: Params) -> None:
    results = evaluation()
    nothing = {"wins": 0, "ties": 0, "losses": 0, "prompts": 0, "win_rate": None, "ci_low": None, "ci_high": None}
    results["comparisons"] = [row | nothing for row in results["comparisons"]]
    gone = {"accuracy": None, "ci_low": None, "ci_high": None, "pairs": 0, "ceiling": None}
    results["implicit_reward"] = [row | gone for row in results["implicit_reward"]]
    write_json(Path("metrics/evaluate.json"), results)
    page = Page(written(project))
    assert head.UNSCORED in page.text
    assert "nan" not in page.text.lower().split() and "None" not in page.text.split()


@pytest.mark.parametrize("name", ["metrics/evaluate.json", "metrics/ingest.json", str(SCORES), "curves/dpo.jsonl"])
def test_missing_inputs_are_named(project: Params, name: str) -> None:
    Path(name).unlink()
    with pytest.raises(UserError, match=re.escape(name)):
        report.run(project)


def test_scores_of_other_images_are_refused(project: Params) -> None:
    lines = SCORES.read_text().splitlines(keepends=True)
    for other in (lines[1:], [lines[0].replace(CAPTIONS[0], CAPTIONS[1]), *lines[1:]]):
        write_text(SCORES, "".join(other))
        with pytest.raises(UserError, match="doesn't have the scores of these images"):
            report.run(project)
    manifest = json.loads(Path("images/dpo/manifest.json").read_text())
    manifest["images"][0] |= {"file": "00001-0.png", "sha256": manifest["images"][1]["sha256"]}
    write_json(Path("images/dpo/manifest.json"), manifest)
    write_text(SCORES, "".join(lines))
    with pytest.raises(UserError, match="doesn't have the scores of these images"):
        report.run(project)


def test_outside_of_git_there_is_no_commit(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.cwd().parent))
    assert made_by.git_commit() == "none"
    monkeypatch.setenv("PATH", "")
    assert made_by.git_commit() == "none"


@pytest.mark.slow
@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium isn't installed")
@pytest.mark.parametrize("size", [64, 512])
def test_a_real_browser_loads_nothing_and_scrolls_only_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write_inputs(tmp_path, size)
    monkeypatch.chdir(tmp_path)
    written(make_params(tmp_path, POLICIES, report=SETTINGS, precompute={"resolution": size}))
    page = Path("alone") / "report.html"  # nothing beside it
    page.parent.mkdir()
    shutil.copy("reports/report.html", page)
    colours = {}
    with browser.Browser() as chromium:
        for width in (1280, 768, 360, 320):
            for dark in (False, True):
                chromium.open(page, width, 800, dark)
                assert [url for url in chromium.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
                assert chromium.evaluate("document.documentElement.scrollWidth") <= width
                chromium.evaluate("[...document.images].forEach(i => { i.loading = 'eager'; })")
                waiting = "[...document.images].filter(i => !i.complete).length"
                ends = time.monotonic() + 30
                while chromium.evaluate(waiting) and time.monotonic() < ends:
                    time.sleep(0.05)
                broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
                assert (chromium.evaluate("document.images.length"), chromium.evaluate(broken)) == (66, 0)
                assert (
                    chromium.evaluate("typeof alert.called + getComputedStyle(document.body).display")
                    == "undefinedblock"
                )
                colours[dark] = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
                ink = chromium.evaluate("getComputedStyle(document.querySelector('svg.panel text')).fill")
                paper, text = (np.mean([int(n) for n in re.findall(r"\d+", c)[:3]]) for c in (colours[dark], ink))
                assert abs(paper - text) > 100  # the charts' labels stand out
    assert colours[False] != colours[True]
