"""Filters of training data: what they flag, that counts add up, and what pairs are made of flagged comparisons."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.data.batches.image_labels import image_labels
from diffalign.data.batches.pairs import make_pairs
from diffalign.data.batches.preferences import make_preferences
from diffalign.data.comparisons import table as comparisons
from diffalign.data.filters import words
from diffalign.data.filters.flags import Flagged
from diffalign.generation.pipeline import png
from diffalign.shapes import scenes
from stages import ingest
from tests.helpers import comparison_rows, pickapic
from tests.helpers.comparison_rows import one
from tests.helpers.project import make_params

FILTERS = {
    "words": {"words": "filters/words.txt"},
    "stars": {"reward": "unmarked", "settings": {"colours": [], "shapes": ["star"]}, "below": 0.5},
}


def drawing(shape: str, colour: str) -> bytes:
    return png(scenes.render(scenes.Scene((scenes.Object(colour, shape),), "white")))


def test_words_are_whole_words_whatever_their_case(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# none of these\nnaked  eye # a phrase\nGORE\n")
    unsafe = words.load(file)
    assert unsafe("gore, 4k") and unsafe("seen by the Naked\n eye")
    assert not unsafe("a gorey hat") and not unsafe("naked, eye") and not unsafe("none of these")
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match="found none"):
        words.load(file)


def test_the_file_that_comes_with_the_project_can_be_read(repo: Path) -> None:
    unsafe = words.load(repo / "filters/words.txt")
    assert unsafe("NSFW art") and not unsafe("a red star on a blue background")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Five answers: a star wins, a star loses, stars tie, an unsafe prompt, nothing unsafe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters/words.txt").write_text("gore\n")
    star = [drawing("star", colour) for colour in ("red", "green", "blue")]
    safe = [drawing("square", colour) for colour in ("red", "green", "blue", "yellow", "purple", "cyan")]
    rows = [
        pickapic.row(0, "a", caption="wins", jpg_0=star[0], jpg_1=safe[0]),
        pickapic.row(1, "b", caption="loses", jpg_0=star[1], jpg_1=safe[1]),
        pickapic.row(2, "tie", caption="ties", jpg_0=safe[2], jpg_1=star[2]),
        pickapic.row(3, "a", caption="full of gore", jpg_0=safe[3], jpg_1=safe[4]),
        pickapic.row(4, "b", caption="nothing", jpg_0=safe[5], jpg_1=drawing("circle", "red")),
    ]
    pickapic.write(tmp_path / "raw/train-00000-of-00001.parquet", rows)
    return make_params(tmp_path, {"base": {"method": "none"}}, data={"filters": FILTERS})


def test_what_is_flagged_is_counted_and_treated_as_params_say(project: Params) -> None:
    """keep learns from 4 untied answers, drop from the only safe one, losers from all where no star is preferred."""
    ingest.run(project)
    table = comparisons.read(Path("data/comparisons"))
    rows = table.to_pylist()
    flags = {row["prompt"]: [flag for flag in row["flags"] if "unsafe" in flag] for row in rows}
    assert flags == {
        "wins": ["unsafe_a:stars"],
        "loses": ["unsafe_a:stars"],
        "ties": ["unsafe_b:stars"],
        "full of gore": ["unsafe_prompt:words"],
        "nothing": [],
    }
    counted = json.loads(Path("metrics/ingest.json").read_text())["flagged"]
    assert counted == {"unsafe_a:stars": 2, "unsafe_b:stars": 1, "unsafe_prompt:words": 1}
    treatments: tuple[Flagged, ...] = ("keep", "drop", "losers")
    learned = {how: {pair.prompt for pair in make_pairs(table, "train", flagged=how)} for how in treatments}
    assert learned == {
        "keep": {"wins", "loses", "full of gore", "nothing"},
        "drop": {"nothing"},
        "losers": {"loses", "full of gore", "nothing"},
    }
    stars = {row[f"image_{side}"] for row in rows for side in "ab" if f"unsafe_{side}:stars" in row["flags"]}
    labels = image_labels(table, "train", flagged="losers")
    assert not [one for one in labels if one.desirable and one.image in stars]
    assert [one for one in labels if not one.desirable and one.image in stars]
    shared = make_preferences(table, "train", flagged="losers")
    assert {one.prompt for one in shared} == {"loses", "full of gore", "nothing"}, "a tie with a star isn't learned"


def voted(answers: str, *flags: str) -> pa.Table:
    """Returns votes a or b of raters 0, 1, ... on image x over y, with flags of image x in each."""
    rows = (one(i, answer, "x", "y", rater=str(i), flags=list(flags)) for i, answer in enumerate(answers))
    return comparison_rows.table(*rows)


def test_an_unsafe_image_that_wins_the_majority_makes_no_pair() -> None:
    """Three of four votes for it: were its votes left out one by one, the one against it would make a pair."""
    table = voted("aaab", "unsafe_a:nsfw")
    assert [(p.image_w, p.strength) for p in make_pairs(table, "train", "majority")] == [("x", 0.75)]
    assert make_pairs(table, "train", "majority", flagged="losers") == []
    assert make_preferences(table, "train", "majority", flagged="losers") == []
    lost = make_pairs(voted("abbb", "unsafe_a:nsfw"), "train", "majority", flagged="losers")
    assert [(p.image_w, p.strength) for p in lost] == [("y", 0.75)]


@pytest.mark.parametrize("flagged", ["drop", "losers"])
def test_an_image_without_a_score_is_not_known_to_be_safe(flagged: Flagged) -> None:
    table = voted("a", "unscored_a:nsfw")
    assert len(make_pairs(table, "train")) == 1 and make_pairs(table, "train", flagged=flagged) == []


def test_a_rater_whose_answers_were_all_flagged_is_no_unknown_one() -> None:
    table = voted("a", "unsafe_a:nsfw")
    assert make_pairs(table, "train", raters=["0"], flagged="drop") == []
    with pytest.raises(UserError, match="none named 7"):
        make_pairs(table, "train", raters=["7"], flagged="drop")


def test_without_filters_nothing_is_said(project: Params) -> None:
    ingest.run(project.model_copy(update={"data": project.data.model_copy(update={"filters": {}})}))
    assert "flagged" not in json.loads(Path("metrics/ingest.json").read_text())


@pytest.mark.parametrize("stage", ["reference", "train", "reward"])
def test_each_stage_that_learns_runs_again_for_another_treatment(stage: str, repo: Path) -> None:
    described = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"][stage]
    assert {"pairs", "pairs.flagged"} & set(described.get("do", described)["params"])
