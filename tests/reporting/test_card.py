"""Model cards: what they say follows from the figures, and no caption, title or note breaks out of them."""

import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from diffalign.config.params import Params
from diffalign.core.files import write_json
from diffalign.reporting import card, card_file, card_text
from diffalign.reporting.card_file import CARDS, Card
from stages import report
from tests.helpers.project import make_params
from tests.helpers.report_inputs import POLICIES, SETTINGS, write_inputs
from tests.helpers.world import HOSTILE

LORA = {"rank": 2, "alpha": 4, "targets": None}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Inputs of a report, and policies of which the first has LoRA."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in POLICIES:
        write_json(Path("models/policies") / name / "policy.json", {"schema": 1, "name": name, "pairs": 42})
    policies = POLICIES | {"dpo": POLICIES["dpo"] | {"lora": LORA}}
    return make_params(tmp_path, policies, report=SETTINGS)


def head_of(text: str) -> dict[str, object]:
    _, head, _ = text.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_a_card_says_what_the_run_says(project: Params) -> None:
    report.run(project)
    text = (CARDS / "dpo" / card_file.TEXT).read_text()
    assert head_of(text) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "stable-diffusion", "dpo", "lora"],
    }, "nothing is known of the hub about this base and these data"
    for part in (
        "LoRA on `model`, aligned with simulated preferences (programs answered, not people) by DPO.",
        "beat those of `base` in 87.5% [71.0, 98.0] of cases by oracle (a program)",
        "| oracle | test | base | 87.5% | [71.0, 98.0] | 12 | no |",
        "No alarm was raised.",
        "2,238 comparisons from `raw`, 42 pairs of which it learnt from. The raters are simulated.",
        'pipeline.load_lora_weights("models/policies/dpo")',
        "isn't known here",
    ):
        assert part in text, part
    with Image.open(CARDS / "dpo" / card_file.PICTURE) as image:
        assert image.width > 1000
    assert "Not trained: the weights are those of `model`." in (CARDS / "base" / card_file.TEXT).read_text()
    assert not (CARDS / "base" / card_file.PICTURE).exists()


def test_cards_of_known_models_name_them(project: Params) -> None:
    """As fetch brings them: the repository, its licence, the data set."""
    values = make_params(
        Path(),
        POLICIES | {"dpo": {"method": "dpo", "init": "models/base/sdxl"}},
        report=SETTINGS,
        data={"path": "data/raw/pickapic_v2"},
        model={"family": "sdxl", "path": "models/base/sdxl"},
    )
    report.run(values)
    found = head_of((CARDS / "dpo" / card_file.TEXT).read_text())
    assert found["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert found["license"] == "openrail++" and found["base_model_relation"] == "finetune"
    assert found["datasets"] == ["liuhuohuo2/pick-a-pic-v2"]


def test_several_sources_are_named() -> None:
    one = {"source": "hpdv3", "path": "hpdv3", "settings": {}}
    data = {"source": "several", "path": "data/raw", "settings": {"sources": {"a": one, "b": one | {"path": "own"}}}}
    assert card.places(data) == ("data/raw/hpdv3", "data/raw/own")


def test_a_card_of_other_weights_is_none(project: Params) -> None:
    """Trained again since the report: what it says isn't of these weights."""
    report.run(project)
    folder = Path("models/policies/dpo")
    found = card_file.read("dpo", folder)
    assert found is not None and found.method == "dpo"
    write_json(folder / "policy.json", {"schema": 1, "name": "dpo", "pairs": 43})
    assert card_file.read("dpo", folder) is None
    assert card_file.read("other", folder) is None


EVIL = [
    *HOSTILE,
    "![x](https://evil.example/pixel.png) [click](javascript:alert(1))",
    "line\n\n# heading\n---\nlicense: mit\n---",
    "`code` ~~~ ``` <!-- --> | a | b |",
    "https://evil.example www.evil.example <https://evil.example>",
    "1. one\n- two\n* three\n> four",
    "\\[x\\](y) &lt;b&gt; &#60;i&#62;",
]


@pytest.mark.parametrize("text", EVIL)
def test_text_of_others_is_shown_and_does_nothing(text: str) -> None:
    """A Markdown reader with tables, strikethrough and raw HTML makes of it a paragraph of one line, as it reads."""
    html = MarkdownIt("gfm-like", {"linkify": False}).render(f"- {card_text.escaped(text)}")
    inside = re.fullmatch(r"<ul>\n<li>(.*)</li>\n</ul>\n", html)
    assert inside and "<" not in inside[1], html
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    unescaped = inside[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert unescaped == shown


def test_the_whole_card_of_a_hostile_run_has_no_more_than_its_own(project: Params) -> None:
    report.run(project)
    path = CARDS / "dpo" / card_file.FACTS
    facts = Card.model_validate_json(path.read_text())
    evil = facts.model_copy(
        update={"captions": tuple(EVIL), "caveats": tuple(EVIL), "title": EVIL[-2], "alarms": (EVIL[0],)}
    )
    text = card_text.markdown(evil, "none")
    assert head_of(text) == head_of((CARDS / "dpo" / card_file.TEXT).read_text())
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text.split("---\n", 2)[2])
    assert html.count("<img") == 1 and "<a " not in html and "<script" not in html
    assert html.count("<h1") == 1 and "<!--" not in html


def test_settings_are_in_words() -> None:
    values = {"lr": 4e-05, "sampler": {"name": "ddim", "eta": 0.5}, "ema": None, "steps": 10}
    assert card.as_text(values) == {"lr": "4e-05", "sampler": "name ddim, eta 0.5", "steps": "10"}
