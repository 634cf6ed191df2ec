"""TensorBoard's event files, read back by TensorBoard: all figures of a curve, pictures by step, and what grows."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffalign.core.errors import UserError
from diffalign.tracking import tensorboard


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, *lines: dict[str, float]) -> None:
    """Writes a curve."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def loaded(name: str) -> Any:
    """What TensorBoard itself reads of a curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tensorboard.FOLDER / name))
    found.Reload()
    return found


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorboard\]"):
        tensorboard.run(6006)


@pytest.mark.extra
def test_curves_pictures_and_what_grows() -> None:
    write("curves/dpo.jsonl", {"step": 5, "loss": 0.7, "grad_norm": 2.0}, {"step": 10, "loss": 0.5})
    write("curves/rewards/learned.jsonl", {"step": 1, "loss": 0.25})
    write("runs/live/train@sft.jsonl", {"step": 5, "loss": 1.0})
    Path("runs/live/train@gone.jsonl").symlink_to("nowhere")
    pictures = Path("models/policies/dpo/probe")
    pictures.mkdir(parents=True)
    Image.fromarray(np.full((8, 16, 3), 200, np.uint8)).save(pictures / "step-000010.png")
    tensorboard.run(6006, serve=False)
    assert sorted(path.name for path in tensorboard.FOLDER.iterdir()) == ["dpo", "rewards", "sft (running)"]
    dpo = loaded("dpo")
    assert {point.step: point.value for point in dpo.Scalars("loss")} == pytest.approx({5: 0.7, 10: 0.5})
    assert [point.value for point in dpo.Scalars("grad_norm")] == [2.0]
    (picture,) = dpo.Images("probe")
    assert (picture.step, picture.width, picture.height) == (10, 16, 8)
    assert [point.value for point in loaded("rewards/learned").Scalars("loss")] == [0.25]
    with tensorboard.Events(tensorboard.FOLDER) as events:
        events.update()
        write("runs/live/train@sft.jsonl", {"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5})
        events.update()
    assert [point.step for point in loaded("sft (running)").Scalars("loss")] == [5, 10]
