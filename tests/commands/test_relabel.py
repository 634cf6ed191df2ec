"""`relabel`: a reward's answers as a source that ingest reads; who answered, what is left out, ties by margin."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffalign.commands import relabel
from diffalign.config.load import parse
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation.relabel import Asked
from diffalign.generation.pipeline import png
from diffalign.shapes import oracle, scenes
from stages import evaluate, ingest
from tests.helpers import pickapic
from tests.helpers.project import make_params

RED, BLUE = "a large red circle on a white background", "a large blue square on a black background"
STAR, FOREIGN = "a red star on a white background", "a <b>cat</b>"
NAME = "simulated: oracle v2"


def drawn(text: str, size: int) -> bytes:
    scene = scenes.parse_caption(text)
    assert scene is not None
    return png(scenes.render(scene, size))


def row(number: int, caption: str, a: str, b: str, answer: str = "b", size: int = 64) -> dict[str, Any]:
    return pickapic.row(number, answer, caption=caption, jpg_0=drawn(a, size), jpg_1=drawn(b, size))


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Four rows to train on, of them one twice and one that no oracle can score; one to test on."""
    monkeypatch.chdir(tmp_path)
    rows = [row(0, RED, RED, BLUE), row(1, BLUE, RED, BLUE), row(2, RED, BLUE, RED, "a"), row(3, FOREIGN, RED, BLUE)]
    pickapic.write(Path("raw/train-0.parquet"), rows)
    pickapic.write(Path("raw/test_unique-0.parquet"), [row(4, STAR, RED, BLUE, size=48)])
    values = make_params(tmp_path, {"base": {"method": "none"}})
    ingest.run(values)
    return values


def read_again(params: Params, folder: str) -> list[dict[str, Any]]:
    """The comparisons that ingest makes of a folder."""
    ingest.run(params.model_copy(update={"data": params.data.model_copy(update={"path": folder})}))
    return list(comparisons.read(Path("data/comparisons")).to_pylist())


def test_the_rewards_answers_come_through_ingest(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    before = comparisons.read(Path("data/comparisons")).to_pylist()
    assert len(before) == 5
    text = relabel.run(params, "oracle", Path("data/raw/ai"), Asked(1, 0.0, 0.0, 0))
    assert "3 comparisons of 5" in text and "2 train, 0 validation, 1 test" in text and "data.path: data/raw/ai" in text
    assert "oracle can't score 1 of 4 comparisons: left out" in capsys.readouterr().err
    found = read_again(params, "data/raw/ai")
    answers = {(r["prompt"], r["answer"], r["split"]) for r in found}
    assert answers == {(STAR, "a", "test"), (RED, "a", "train"), (BLUE, "b", "train")} and len(found) == 3
    assert {r["rater_id"] for r in found} == {NAME}
    sides = [(r["prompt"], r["image_a"], r["image_b"]) for r in before]
    assert all((r["prompt"], r["image_a"], r["image_b"]) in sides for r in found)
    told = json.loads(Path("metrics/ingest.json").read_text())
    assert told["simulated"] and told["notes"] == [NAME] and told["families"] == ["oracle", "shapes"]


def test_the_reward_that_answered_is_in_family(params: Params) -> None:
    """It would else stand among the judges that are held out from what the policies learnt."""
    relabel.run(params, "oracle", Path("data/raw/ai"), Asked(1, 0.0, 0.0, 0))
    read_again(params, "data/raw/ai")
    assert "oracle" in evaluate.families_of(params)


def test_scores_within_the_margin_tie(params: Params) -> None:
    relabel.run(params, "oracle", Path("ties"), Asked(1, 0.0, 2.0, 0))
    assert {r["answer"] for r in read_again(params, "ties")} == {"tie"}


def test_a_folder_that_is_there_is_kept(params: Params) -> None:
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/raw/mine/votes.csv").write_text("precious")
    with pytest.raises(UserError, match="data/raw/mine is there already: expected a new folder"):
        relabel.run(params, "oracle", Path("data/raw/mine"), Asked(1, 0.0, 0.0, 0))
    assert Path("data/raw/mine/votes.csv").read_text() == "precious"


def test_a_killed_run_leaves_no_folder(params: Params) -> None:
    """What it scored isn't scored again."""

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(relabel.pickapic_file, "write", dies)
        relabel.run(params, "oracle", Path("data/raw/ai"), Asked(1, 0.0, 0.0, 0))
    assert not Path("data/raw/ai").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "read", dies)
        relabel.run(params, "oracle", Path("data/raw/ai"), Asked(1, 0.0, 0.0, 0))


def test_simulated_raters_answer_one_by_one(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """The other picture is wrong for RED, and nothing lies off the middle: both raters want what the oracle does."""
    raters = {"world": "strong", "of": ["100", "201", "left"]}
    params = parse(params.model_dump() | {"rewards": {"oracle": {}, "raters": raters}})
    text = relabel.run(params, "raters", Path("data/raw/strong"), Asked(2, 0.0, 0.0, 0))
    assert "data.path: data/raw/strong" in text
    found = read_again(params, "data/raw/strong")
    assert {(r["prompt"], r["rater_id"]) for r in found} == {(p, r) for p in (STAR, RED, BLUE) for r in ("100", "201")}
    assert {r["answer"] for r in found if r["prompt"] == RED} == {"a"}
    with pytest.raises(UserError, match="--noise and --answers are of simulated raters by their ids, which oracle"):
        relabel.run(params, "oracle", Path("else"), Asked(1, 0.1, 0.0, 0))
