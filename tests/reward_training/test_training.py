"""The stage reward@NAME on a tiny random CLIP: what it publishes, that it learns, and that it survives a kill."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from diffalign.config.params import Params
from diffalign.core.errors import Stopped, UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.reward_training import data, loop, objective, scorer
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import card
from stages import ingest
from stages import reward as stage
from tests.helpers import open_clip, pickapic
from tests.helpers.project import REPO, make_params

SMALL: dict[str, Any] = {
    "init": "clip",
    "scale": 5.0,
    "trained_layers": {"vision": None, "text": None},
    "ties": True,
    "weights": ["prompt"],
    "gradient_checkpointing": False,
    "optimizer": "adamw",
    "lr": 3e-3,
    "warmup_steps": 2,
    "schedule": "linear",
    "steps": 6,
    "batch_size": 8,
    "micro_batch_size": 4,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "seed": 0,
    "validate_every": 2,
    "validation_pairs": 50,
    "choose": "last",
}


def grey(level: int, number: int) -> bytes:
    """A grey picture whose first pixel makes it one of its own."""
    picture, buffer = Image.new("RGB", (40, 36), (level,) * 3), io.BytesIO()
    picture.putpixel((0, 0), (level, number % 256, number // 256))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def bright_wins(count: int, start: int) -> list[dict[str, Any]]:
    """Rows where the brighter of two grey images is preferred, on either side, and every fifth is a tie."""
    found = []
    for number in range(start, start + count):
        dark, light = number % 97, 110 + number % 101
        sides = (light, dark) if number % 2 else (dark, light)
        answer = "tie" if number % 5 == 4 else "ba"[number % 2]
        images = {f"jpg_{side}": grey(level, number) for side, level in enumerate(sides)}
        found.append(pickapic.row(number, answer, caption=f"{start} {number % 7}", **images))
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with ingested comparisons and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("reward")
    open_clip.make_folder(folder / "clip", open_clip.random_state(1), "gelu")
    for name, count, start in (("train", 60, 0), ("validation_unique", 20, 100), ("test_unique", 10, 200)):
        pickapic.write(folder / f"raw/{name}-00000-of-00001.parquet", bright_wins(count, start))
    before = Path.cwd()
    os.chdir(folder)
    ingest.run(project_params(folder))
    os.chdir(before)
    return folder


def project_params(folder: Path, **changes: Any) -> Params:
    return make_params(
        folder,
        {"base": {"method": "none"}},
        reward_models={"mine": {**SMALL, **changes}},
        rewards={"oracle": {}, "learned": {"path": "models/rewards/mine", "batch_size": 4}},
    )


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared project, to work in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(folder: Path, **changes: Any) -> dict[str, Any]:
    """Runs the stage; returns the metrics."""
    stage.run(project_params(folder, **changes), "mine")
    found: dict[str, Any] = json.loads(Path("metrics/rewards/mine.json").read_text())
    return found


def published() -> bytes:
    return Path("models/rewards/mine/model.safetensors").read_bytes()


def test_what_is_published(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stock transformers load it; the card counts; the curve rises; the reward scores with it as stock CLIP does."""
    found = train(project)
    folder = Path("models/rewards/mine")
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    assert (found["preferences"], found["ties"], found["prompts"], found["step"]) == (60, 12, 7, 6)
    assert found["validation"]["pairs"] == found["before"]["pairs"] == 16
    lines = [json.loads(line) for line in Path("curves/rewards/mine.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["step"] for line in lines if "validation/accuracy" in line] == [0, 2, 4, 6]
    assert found["sha256"] == hashlib.sha256(published()).hexdigest(), "score@learned depends on these metrics"
    assert lines[-1]["validation/accuracy"] == found["validation"]["accuracy"]
    assert card.read(folder).settings["lr"] == 3e-3
    assert not list(Path("runs").glob("reward-*"))
    assert "dvc repro score@learned" in capsys.readouterr().err

    reward = rewards.load("learned", {"path": str(folder), "batch_size": 4}, "cpu")
    assert reward.differentiable and reward.families == ("own",) and "60 comparisons" in reward.trained_on
    pixels = torch.rand(3, 3, open_clip.SIDE, open_clip.SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["grey 1", "grey 2", "a"]
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    tokens = tokenizer(prompts, padding="max_length", max_length=open_clip.TOKENS, return_tensors="pt")
    with torch.no_grad():
        stock = model(**tokens, pixel_values=(pixels / 2 + 0.5 - mean) / std).logits_per_image.diagonal()
    torch.testing.assert_close(reward(pixels, prompts), stock, rtol=1e-4, atol=1e-4)


def test_it_learns_what_raters_prefer(project: Path) -> None:
    """Brighter images win: a CLIP with random weights ranks nearly all held-out pairs by that after 40 steps."""
    found = train(project, steps=40, validate_every=0, batch_size=16, micro_batch_size=16)
    assert found["validation"]["accuracy"] > 0.9 > found["before"]["accuracy"]


def test_a_killed_run_goes_on_bit_for_bit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the fifth step, one after a checkpoint; the best of the validated steps is kept over the kill, too."""
    train(project, choose="validation")
    whole, curve = published(), Path("curves/rewards/mine.jsonl").read_bytes()
    honest = loop.optimizer_step

    def dies(job: loop.Job, step: int) -> dict[str, float]:
        if step == 5:
            raise KeyboardInterrupt
        return honest(job, step)

    shutil.rmtree("models/rewards/mine")
    monkeypatch.setattr(loop, "optimizer_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(project, choose="validation")
    (work,) = Path("runs").glob("reward-mine-*")
    assert sorted(path.name for path in (work / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    monkeypatch.setattr(loop, "optimizer_step", honest)
    train(project, choose="validation")
    assert published() == whole and Path("curves/rewards/mine.jsonl").read_bytes() == curve


@pytest.mark.slow
def test_a_sigkill_changes_no_bit(project: Path) -> None:
    """A process of its own, killed after some checkpoints, goes on to the weights and the curve of one left alone."""
    changes = {"steps": 30, "choose": "validation"}
    train(project, **changes)
    whole, curve = published(), Path("curves/rewards/mine.jsonl").read_bytes()
    shutil.rmtree("models/rewards/mine")
    code = "from diffalign.config.load import load; from stages import reward; reward.run(load(), 'mine')"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=project, env={**os.environ, "PYTHONPATH": str(REPO)})
    while not list(project.glob("runs/reward-mine-*/checkpoints/step-00000010")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not Path("models/rewards/mine").exists()
    subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": str(REPO)}, check=True)
    assert published() == whole and Path("curves/rewards/mine.jsonl").read_bytes() == curve


def test_a_gpus_precision_learns_nearly_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, with weights and moments in float32: the first step's loss is within 2%."""
    first = []
    for precision in ("fp32", "bf16"):
        monkeypatch.setenv("DIFFALIGN_PRECISION", precision)
        train(project, steps=1)
        first.append(json.loads(Path("curves/rewards/mine.jsonl").read_text().splitlines()[-1])["loss"])
        assert CLIPModel.from_pretrained("models/rewards/mine").dtype == torch.float32
    assert first[0] != first[1] == pytest.approx(first[0], rel=0.02)


def test_a_request_to_stop_saves_and_ends(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = loop.optimizer_step

    def stopped(job: loop.Job, step: int) -> dict[str, float]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(job, step)

    monkeypatch.setattr(loop, "optimizer_step", stopped)
    with pytest.raises(Stopped):
        train(project)
    (work,) = Path("runs").glob("reward-mine-*")
    assert (work / "checkpoints/step-00000003").is_dir()


def test_the_cut_into_forwards_doesnt_matter(project: Path) -> None:
    """Eight comparisons at once have the loss and the gradient of four and four, and of eight by themselves."""
    found = []
    for size in (1, 4, 8):
        train(project, steps=1, warmup_steps=0, micro_batch_size=size)
        found.append(json.loads(Path("curves/rewards/mine.jsonl").read_text().splitlines()[-1]))
    for line in found[:2]:
        assert {key: line[key] for key in ("loss", "grad_norm", "accuracy")} == pytest.approx(
            {key: found[2][key] for key in ("loss", "grad_norm", "accuracy")}, rel=1e-4
        )


def test_only_the_chosen_layers_learn(project: Path) -> None:
    train(project, steps=2, trained_layers={"vision": 1, "text": 0}, gradient_checkpointing=True)
    before, after = (CLIPModel.from_pretrained(name).state_dict() for name in ("clip", "models/rewards/mine"))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    kinds = {".".join(name.split(".")[:4]) if "layers" in name else name.split(".")[0] + "." for name in changed}
    assert all("layers.1" in name or "post_layernorm" in name or "_model" not in name for name in changed), kinds
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= changed
    assert any("vision_model.encoder.layers.1" in name for name in changed)
    with pytest.raises(UserError, match=r"trained_layers\.vision: expected at most the 2 layers .* got 3"):
        train(project, trained_layers={"vision": 3, "text": None})


def test_the_test_split_is_never_read(project: Path) -> None:
    """Without its rows and its images the same weights come out."""
    train(project, steps=2)
    whole, table = published(), comparisons.read(Path("data/comparisons"))
    kept = table.filter(pa_not_test(table))
    names = {*kept["image_a"].to_pylist(), *kept["image_b"].to_pylist()}
    rewrite(Path("data/comparisons"), kept, names)
    train(project, steps=2)
    assert published() == whole


def pa_not_test(table: Any) -> Any:
    import pyarrow.compute as pc

    return pc.not_equal(table["split"], "test")


def rewrite(folder: Path, table: Any, names: set[str]) -> None:
    """Leaves only some rows and images in a folder of comparisons."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    pq.write_table(table, folder / comparisons.COMPARISONS)
    for path in folder.glob(comparisons.IMAGES):
        images = pq.read_table(path)
        pq.write_table(images.filter(pc.is_in(images["sha256"], value_set=pa.array(sorted(names)))), path)


def test_nothing_but_ties_is_nothing_to_learn_from(project: Path) -> None:
    table = comparisons.read(Path("data/comparisons"))
    column = table.schema.get_field_index("answer")
    tied = table.set_column(column, "answer", [["tie"] * len(table)])
    rewrite(Path("data/comparisons"), tied, {*table["image_a"].to_pylist(), *table["image_b"].to_pylist()})
    with pytest.raises(UserError, match="no untied comparison in the train split"):
        train(project)


def test_gradients_of_the_objective_reach_the_pixels(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, through both towers of a tiny CLIP, from the pixels of two images to the loss."""
    monkeypatch.chdir(prepared)
    settings = project_params(prepared).reward_models["mine"]
    learner = scorer.load("mine", settings, "cpu", "fp32")
    learner.model.double()
    text = learner.texts(learner.tokens(["grey 3"])).double()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        found = learner.model.get_image_features(pixel_values=pixels).pooler_output
        first, second = torch.nn.functional.normalize(found, dim=1).split(1)
        scale = learner.model.logit_scale.detach()
        scored = (objective.scores(image, text, scale) for image in (first, second))
        return objective.preference_loss(*scored, torch.ones(1, dtype=torch.float64))

    draws = torch.Generator().manual_seed(0)
    size = (2, 3, open_clip.SIDE, open_clip.SIDE)
    pixels = torch.randn(size, generator=draws, dtype=torch.float64).requires_grad_()
    learner.model.requires_grad_(False)
    assert torch.autograd.gradcheck(loss, (pixels,), fast_mode=True)
    loss(pixels).sum().backward()
    assert pixels.grad is not None and pixels.grad.flatten(1).abs().amax(dim=1).min() > 0


def test_a_rewards_folder_without_weights_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"without config\.json.*dvc repro reward@mine"):
        rewards.load("learned", {"path": str(tmp_path / "mine"), "batch_size": 4}, "cpu")


def test_each_epoch_is_a_permutation() -> None:
    """Seven preferences in batches of three: the first seven places are one epoch, the next seven another."""
    places = [index for step in range(5) for index in data.indices(0, step, 3, 7)]
    assert sorted(places[:7]) == sorted(places[7:14]) == list(range(7))
    assert places[:7] != places[7:14] and data.indices(1, 0, 3, 7) != places[:3]
