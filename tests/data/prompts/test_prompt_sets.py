"""Prompt sets: small files in the published schemas, odd files of one's own, and the whole sets where they are."""

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffalign.config.generate import SIZES
from diffalign.config.values import PromptSet
from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.data.prompts import drawbench, geneval, hpsv2, own, parti, pickapic_test, prompt_set
from diffalign.data.prompts.prompt_set import Prompt, first, load, overlap

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired\n"
    'a sign that says "Deep\tArtifacts\tWriting & Symbols\t\n'  # an open quote is a character like others
    "a horse\tAnimals\tBasic\t\n"
)
GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "counting", "include": [{"class": "cow", "count": 3}], "prompt": "a photo of three cows"},
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, file: str, text: str) -> Path:
    """Writes a file of a published set."""
    path = prompt_set.ROOT / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="")
    return path.parent


def test_params_and_files_name_the_same_sets() -> None:
    assert sorted(get_args(PromptSet)) == axes.names("diffalign.data.prompts") == sorted(SIZES)


def test_parti_is_read_without_quoting(monkeypatch: pytest.MonkeyPatch) -> None:
    put("parti", "PartiPrompts.tsv", PARTI)
    with pytest.raises(UserError, match="expected 1632 prompts, 12 categories, 11 challenges, found 3 prompts, 3 cat"):
        load("parti")
    monkeypatch.setattr(parti, "EXPECTED", {"prompts": 3, "categories": 3, "challenges": 2})
    assert load("parti") == [
        Prompt("bond", "parti", "Abstract"),
        Prompt('a sign that says "Deep', "parti", "Artifacts"),
        Prompt("a horse", "parti", "Animals"),
    ]


def test_geneval_has_its_tags_for_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put("geneval", "evaluation_metadata.jsonl", "".join(json.dumps(row) + "\n" for row in GENEVAL))
    with pytest.raises(UserError, match="expected 553 prompts, 6 tags, found 2 prompts, 2 tags"):
        load("geneval")
    monkeypatch.setattr(geneval, "EXPECTED", {"prompts": 2, "tags": 2})
    assert [(p.text, p.category) for p in load("geneval")] == [
        ("a photo of a bench", "single_object"),
        ("a photo of three cows", "counting"),
    ]
    put("geneval", "evaluation_metadata.jsonl", '{"prompt": "x"}\n')
    with pytest.raises(UserError, match="line 1: expected an object with prompt and tag"):
        geneval.load(folder)


def test_hpsv2_has_four_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpsv2, "EACH", 2)
    for style in ("anime", "concept-art", "paintings"):
        put("hpsv2", f"{style}.json", json.dumps([f"{style} 1", f"{style} 2"]))
    with pytest.raises(UserError, match=r"photo.json is missing. Fetch it: python pipeline.py fetch hpsv2_prompts"):
        load("hpsv2")
    put("hpsv2", "photo.json", json.dumps(["anime 1", "photo 2"]))
    assert Counter(p.category for p in load("hpsv2")) == {"anime": 2, "concept-art": 2, "paintings": 2, "photo": 1}


@pytest.mark.parametrize("text", ["{}", '["a", 1]', "[", "[" * 100_000, "\ufeff"])
def test_a_list_that_isnt_one_is_refused(text: str) -> None:
    put("drawbench", "drawbench.json", text)
    with pytest.raises(UserError, match="expected a JSON list of texts"):
        load("drawbench")


def test_drawbench_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    put("drawbench", "drawbench.json", json.dumps(["a red car", "a blue car"]))
    with pytest.raises(UserError, match="expected 200 prompts, found 2 prompts"):
        load("drawbench")
    monkeypatch.setattr(drawbench, "COUNT", 2)
    assert [p.text for p in load("drawbench")] == ["a red car", "a blue car"]


def test_pick_a_pics_captions_are_read_without_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickapic_test, "COUNT", 2)
    with pytest.raises(UserError, match="expected 2 prompts, found 0 prompts"):
        load("pickapic_test")
    folder = put("pickapic_test", "readme.txt", "")
    table = pa.table({"caption": ["a cat", "a dog"], "jpg_0": [b"1", b"2"]})
    pq.write_table(table, folder / "test_unique-00000-of-00001-x.parquet")
    assert [p.text for p in load("pickapic_test")] == ["a cat", "a dog"]
    (folder / "test_unique-00000-of-00001-x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="can't be read"):
        load("pickapic_test")


def test_a_file_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A mark, odd line ends, empty lines, markup and a U+2028 stay as they should; a prompt that's there twice goes."""
    Path("mine.txt").write_bytes("\ufeff a <b>cat</b> \r\n\r\n\u2028x\u2028y\na <b>cat</b>\n".encode())
    assert [p.text for p in load("mine.txt")] == ["a <b>cat</b>", "x\u2028y"]
    assert "mine.txt has 1 prompts twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"\n \n", "expected a prompt a line, found none"),
        ("a.txt", b"caf\xe9", "can't be read as UTF-8"),
        ("a.tsv", b"", "expected a header with a column Prompt, found nothing"),
        ("a.tsv", b"text\tcategory\nx\ty\n", "expected a header with a column Prompt, found text, category"),
        ("a.tsv", b"Prompt\tCategory\nx\n", "expected 2 columns in each line, found 1: 'x'"),
        ("missing.txt", None, "missing.txt is missing. Write a prompt a line"),
    ],
)
def test_odd_files_are_refused(name: str, data: bytes | None, expected: str) -> None:
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises(UserError, match=expected):
        own.read(Path(name))


def test_fewer_prompts_are_a_sample_that_grows() -> None:
    """In their order in the set; of a set that is sorted by category they aren't the first category's."""
    whole = [Prompt(f"{c} {i}", "s", c) for c in "abcd" for i in range(25)]
    some, more = first(whole, 10), first(whole, 20)
    assert set(some) <= set(more) and len(more) == 20
    assert some == [p for p in whole if p in some]
    assert len({p.category for p in some}) > 2
    assert first(whole, None) == first(whole, 1000) == whole


def test_prompts_that_training_has_are_counted_whatever_their_case_and_spacing() -> None:
    prompts = [Prompt("A  Cat", "one"), Prompt("a dog", "one"), Prompt("a cat", "two"), Prompt("a bird", "three")]
    assert overlap(prompts, ["a cat", "A dog.", "ａ ｃａｔ"]) == {"one": 1, "two": 1, "three": 0}
