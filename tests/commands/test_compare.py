"""`compare`: two models and two folders of images; what is paired, kept, flagged and refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffalign.commands import compare, compare_folders, compare_models
from diffalign.commands.compare import Options, labels, slug
from diffalign.commands.judges import Judge
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.evaluation import score_cache
from diffalign.generation import writer
from diffalign.generation.pipeline import png
from diffalign.rewards import reward as rewards
from diffalign.shapes import scenes
from tests.helpers.project import make_params
from tests.helpers.tiny import make_model

RED, BLUE, GREEN = (
    f"a large {colour} circle on a {ground} background"
    for colour, ground in (("red", "white"), ("blue", "black"), ("green", "yellow"))
)
HOSTILE = "<script>alert('x')</script> & {{ 7 * 7 }}"
PLAIN = Options((), None, None, 1, None)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A project without data."""
    monkeypatch.chdir(tmp_path)
    return make_params(tmp_path, {"base": {"method": "none"}}, generate={"batch_size": 2})


def options(**changes: Any) -> Options:
    return Options(**{**vars(PLAIN), **changes})


def drawn(text: str, size: int = 64) -> np.ndarray:
    scene = scenes.parse_caption(text)
    assert scene is not None
    return scenes.render(scene, size)


def put(name: str, image: np.ndarray | bytes, caption: str | None) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image if isinstance(image, bytes) else png(image))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")


def figures(name: str) -> dict[str, Any]:
    return dict(json.loads(Path("runs/compare", name, "compare.json").read_text()))


def test_two_folders_are_paired_by_names(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """B draws what captions ask, A draws it once of three: two wins and a tie; the rest is left out and counted."""
    for i, text in enumerate((RED, BLUE, GREEN)):
        put(f"a/{i}.png", drawn(RED), text)  # captions lie in A only
        put(f"b/{i}.png", drawn(text), None)
    put("a/alone.png", drawn(RED), RED)
    put("a/two.png", drawn(RED), RED)
    put("b/two.png", drawn(RED), BLUE)
    put("a/broken.png", png(drawn(RED))[:99], RED)
    put("b/broken.png", drawn(RED), None)
    put("a/foreign.png", drawn(RED), HOSTILE)
    put("b/foreign.png", drawn(BLUE), HOSTILE)
    text = compare.run(params, "a", "b", PLAIN)
    assert "b over a, by oracle on folders: 83.3%" in text and "2 wins, 1 ties, 0 losses, 3 prompts" in text
    (row,) = figures("a-b")["comparisons"]
    assert (row["wins"], row["ties"], row["losses"], row["differs"]) == (2, 1, 0, [])
    said = capsys.readouterr().err
    assert "1 images that only one of the folders has" in said and "1 image, an image cut short" in said
    assert "the sides have two captions for it" in said and "oracle can't judge 1 of 4 images" in said
    page = Path("runs/compare/a-b/report.html").read_text("utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "how these images were made isn&#39;t known" in page and "Same prompt: a, b." in page
    assert "b beats a" not in page  # of three images: its interval holds a half


def test_folders_named_like_policies_have_their_own_report(params: Params) -> None:
    """`compare base dpo` and `compare images/base images/dpo` after each other leave two."""
    for side, colour in (("a", RED), ("b", BLUE)):
        put(f"images/{side}/0.png", drawn(colour), RED)
        put(f"{side}/0.png", drawn(RED), RED)
    compare.run(params, "a", "b", PLAIN)
    compare.run(params, "images/a", "images/b", PLAIN)
    assert [figures(name)["comparisons"][0]["ties"] for name in ("a-b", "images_a-images_b")] == [1, 0]


def test_what_scoring_twice_moves_is_a_tie(params: Params) -> None:
    """In a batch A's images get 1e-6 more than alone, as rounding does; B's lie below by no more: no win, no loss."""
    for i in range(3):
        put(f"a/{i}.png", drawn(RED), RED)
        put(f"b/{i}.png", drawn(BLUE), None)
    reward = rewards.load("oracle", {}, "cpu")

    def score(images: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        bright = np.array([image.mean() > 128 for image in images])
        return {"oracle": 0.5 + 1e-6 * bright * (len(images) > 1)}

    judge = Judge(reward, score, score_cache.opened("oracle", "test", {}, True))
    shown = compare_folders.read({"a": Path("a"), "b": Path("b")}, None, 64 * 64)
    judged = compare.judged_by([judge], shown, params.evaluate)
    found = compare.compared("a", judged, [judge])
    assert (found.comparisons[0].wins, found.comparisons[0].ties, found.comparisons[0].losses) == (0, 3, 0)
    assert found.rewards[0].tie_band == judged.bands["oracle"] == pytest.approx(1e-6)


def test_images_of_two_sizes_are_refused(params: Params) -> None:
    put("a/0.png", drawn(RED), RED)
    put("b/0.png", drawn(RED, 32), RED)
    with pytest.raises(UserError, match=r"images of one size, found 64 × 64 \(a/0.png\), 32 × 32 \(b/0.png\)"):
        compare.run(params, "a", "b", PLAIN)


def test_captions_from_a_table(params: Params) -> None:
    put("a/0.png", drawn(RED), None)
    put("b/0.jpg", drawn(BLUE), None)
    with pytest.raises(UserError, match=r"Put a \.txt beside each image of one side, or name a CSV"):
        compare.run(params, "a", "b", PLAIN)
    Path("captions.csv").write_text(f"file,prompt\n0.png,{RED}\n")
    Image.fromarray(drawn(BLUE)).save("b/0.png")
    compare.run(params, "a", "b", options(prompts="captions.csv", out=Path("out")))
    (row,) = json.loads(Path("out/compare.json").read_text())["comparisons"]
    assert row["losses"] == 1


@pytest.fixture
def models(params: Params) -> Params:
    """Two tiny models that differ in their denoisers, and prompts."""
    make_model(Path("one"))
    make_model(Path("two"))
    other = make_model(Path("other"), seed=1)
    shutil.rmtree("two/unet")
    shutil.move(other / "unet", "two/unet")
    for name in ("one", "two"):
        Path(name, "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    Path("mine.txt").write_text(f"{RED}\n{BLUE}\n{HOSTILE}\n")
    return params


def test_two_models_from_the_same_noise(models: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, no data is needed; a second run makes no image again, other prompts do."""
    asked = options(prompts="mine.txt", seeds=2)
    text = compare.run(models, "one", "two", asked)
    found = figures("one-two")
    (row,) = found["comparisons"]
    assert row["same_noise"] and row["prompts"] == 2 and row["seeds"] == 2
    assert {skill["skill"] for skill in found["skills"]} == {"object", "colour"}
    assert {made["steps"] for made in found["images"].values()} == {2}
    folders = sorted(Path("runs/compare/one-two/images").iterdir())
    images = [{p.name: p.read_bytes() for p in folder.glob("*.png")} for folder in folders]
    assert len(images) == 2 and all(len(one) == 6 for one in images) and images[0] != images[1]
    made: list[str] = []
    monkeypatch.setattr(writer, "png", lambda image: made.append("") or png(image))
    assert compare.run(models, "one", "two", asked) == text and made == []
    next(folders[0].glob("00000-0.png")).unlink()  # as a killed run would leave it
    assert compare.run(models, "one", "two", asked) == text
    assert {p.name: p.read_bytes() for p in folders[0].glob("*.png")} == images[0]
    made.clear()
    compare.run(models, "one", "two", options(prompts="mine.txt", count=1))
    assert len(made) == 2


def test_a_difference_in_sampling_is_flagged(models: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy's override of guidance stands in the report and on stderr."""
    shutil.copytree("one", "model")
    folder = Path("models/policies/base")
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text(json.dumps({"schema": 1, "adapter": "none", "init": "model"}))
    changed = make_params(Path(), {"base": {"method": "none"}}, generate={"overrides": {"base": {"guidance": 1.0}}})
    compare.run(changed, "base", "two", options(prompts="mine.txt"))
    assert figures("base-two")["comparisons"][0]["differs"] == ["guidance"]
    assert "careful: the sides' images differ in guidance" in capsys.readouterr().err
    assert "images differ in guidance" in Path("runs/compare/base-two/report.html").read_text()


def test_what_cant_be_compared_is_the_users_error(models: Params) -> None:
    put("a/0.png", drawn(RED), RED)
    Path("empty").mkdir()
    for a, b, expected in (
        ("one", "nothing", "nothing: expected a policy .*, found nothing there"),
        ("empty", "one", "empty: expected .*, found a folder without either"),
        ("one", "a", "expected two models or two folders of images, found a model and images"),
        ("one", "./one", "found one twice"),
        ("one", "base", "the policy isn't trained. Train it: dvc repro train@base"),
    ):
        with pytest.raises(UserError, match=expected):
            compare.run(models, a, b, options(prompts="mine.txt"))
    with pytest.raises(UserError, match="expected prompts of the test split in data/comparisons, found none"):
        compare.run(models, "one", "two", PLAIN)
    with pytest.raises(UserError, match="got the train split"):
        compare.run(models, "one", "two", options(prompts="train"))
    Path("two/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match=r"expected a pipeline among StableDiffusionPipeline.*found 'FluxPipeline'"):
        compare_models.family_of(Path("two"))


def test_names_of_sides_and_folders() -> None:
    assert labels("x/one", "y/two") == ("one", "two")
    assert labels("x/one", "y/one") == ("x/one", "y/one")
    assert slug("../../etc/pass wd<b>") == "etc_pass_wd_b" and slug("///") == "side"
