"""benchmarks/evaluate.py on a few images: the same images both ways, every way's turn, what it writes and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import evaluate, results, worlds
from benchmarks.evaluators import PerPrompt
from diffalign.core.errors import UserError
from diffalign.runtime import devices
from tests.helpers import tiny_rewards

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
FEW = ["--batch", "3", "--images", "4", "--steps", "2", "--repetitions", "2"]


def test_both_ways_make_the_same_images_and_take_their_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images of batches of 3 and 1, from the loop's noise by its sampler: at most 2 of 255 levels apart."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    found = json.loads(results.write(evaluate.run(evaluate.parse(FEW)), "few", evaluate.markdown).read_text())
    loop, ours = found["contenders"]["per prompt"], found["contenders"]["ours"]
    assert loop["ratios"] == [1, 1] and len(ours["rates"]) == 2
    assert ours["ratios"] == [a / b for a, b in zip(ours["rates"], loop["rates"], strict=True)]
    assert all(a > b for a, b in zip(ours["generate_rates"], ours["rates"], strict=True)), "scoring takes time"
    assert found["apart"]["ours"]["largest"] <= evaluate.LEVELS and found["apart"]["ours"]["score"] < 1e-3
    # The UNet's forward has 0.082 GFLOP; two a step under guidance, two steps, and the decoder once.
    assert 4 * 0.082e9 < found["flop_per_image"] < 2 * 4 * 0.082e9 + 1e9
    assert (
        found["versions"]["diffusers"] and found["commit"] != "none" and found["versions"]["torch"] == torch.__version__
    )
    table = (tmp_path / "few.md").read_text()
    assert (
        "python -m benchmarks.evaluate --arch tiny" in table
        and f"at most {found['apart']['ours']['largest']} of" in table
    )


def test_the_command_for_a_gpu_runs_with_small_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made for sd15: a model and PickScore's CLIP of random weights, here of few; blocks aren't compiled."""
    monkeypatch.setitem(worlds.ARCHITECTURES, "sd15", worlds.ARCHITECTURES["tiny"])
    monkeypatch.setattr(devices, "compile_blocks", lambda network, blocks: network)
    tiny_rewards.shrink(monkeypatch)
    found = evaluate.run(evaluate.parse([*FEW, "--arch", "sd15", "--contenders", *evaluate.CONTENDERS]))
    assert list(found["contenders"]) == list(evaluate.CONTENDERS) and found["reward"] == "pickscore"
    assert 0 < found["contenders"]["ours, compiled"]["share_of_matmul"] < 1


def test_other_images_are_noticed(tmp_path: Path) -> None:
    """One pixel 3 levels off."""
    setting = evaluate.make_setting(evaluate.parse([*FEW, "--images", "3"]), tmp_path)
    folders = {name: tmp_path / name for name in ("per prompt", "ours")}
    for folder in folders.values():
        folder.mkdir()
        for job in setting.jobs:
            Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(folder / job.file)
    scores: dict[str, Any] = dict.fromkeys(folders, np.zeros(3))
    assert evaluate.compare(folders, scores, setting)["ours"]["largest"] == 0
    image = np.full((8, 8, 3), 100, np.uint8)
    image[2, 3, 1] = 103
    Image.fromarray(image).save(folders["ours"] / setting.jobs[1].file)
    with pytest.raises(AssertionError, match="differ by 3 of 255"):
        evaluate.compare(folders, scores, setting)


def test_the_loop_is_stock_diffusers_with_the_sampler_that_ours_equals(tmp_path: Path) -> None:
    loop = PerPrompt(evaluate.make_setting(evaluate.parse(FEW), tmp_path))
    assert type(loop.pipe).__name__ == "StableDiffusionPipeline"
    assert type(loop.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert (loop.pipe.scheduler.config.timestep_spacing, loop.pipe.scheduler.config.steps_offset) == ("trailing", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--contenders", "ours"], "per prompt"),
        (["--images", "8", "--batch", "9"], "at least --batch 9"),
        (["--device", "cuda"], "found none"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=said):
        evaluate.parse(arguments)
    with pytest.raises(UserError, match="at most the 500 prompts"):
        evaluate.prompts(501)
