"""The rebuild of assets/ in small: models, what is measured of them, comparisons, the log; and the raters alone."""

import json
from functools import partial
from pathlib import Path

import pytest

from diffalign.core.errors import UserError
from diffalign.shapes.build import measure, pretrain, raters, rebuild, tiny_clip

ROWS = {"train": 36, "validation_unique": 6, "test_unique": 12}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and a recipe of a few steps and rows."""
    monkeypatch.chdir(tmp_path)
    steps = {"vae_steps": 1, "max_steps": 2, "spoil_steps": 2, "images": 12, "device": "cpu"}
    monkeypatch.setattr(pretrain, "run", partial(pretrain.run, **steps))
    monkeypatch.setattr(tiny_clip, "run", partial(tiny_clip.run, steps=1, scenes=4))
    monkeypatch.setattr(tiny_clip, "measure", partial(tiny_clip.measure, count=4))
    monkeypatch.setattr(measure, "run", partial(measure.run, images=2))
    monkeypatch.setattr(raters, "run", partial(raters.run, rows=ROWS))
    return tmp_path


@pytest.mark.slow
def test_everything_is_made_measured_and_noted(small: Path) -> None:
    rebuild.run(0, keep_model=False)
    log = json.loads((small / "assets/pretraining.json").read_text())
    assert set(log["measured"]["models"]) == set(raters.MODELS)
    for kinds in log["measured"]["models"].values():
        assert set(kinds) == set(measure.KINDS)
        assert all(0 <= value <= 1 for figures in kinds.values() for value in figures.values())
    assert {name: log["comparisons"][name] for name in ROWS} == ROWS
    assert 0 <= log["clip"]["edited"] <= 1 and (small / "assets/tiny-clip/model.safetensors").is_file()
    assert all((small / folder / "unet").is_dir() for folder in raters.MODELS.values())
    before = {path: path.read_bytes() for path in small.glob("assets/comparisons/*.parquet")}
    rebuild.run(0, keep_model=True)
    assert len(before) == 3 and all(path.read_bytes() == data for path, data in before.items())
    assert json.loads((small / "assets/pretraining.json").read_text()) == log


def test_the_raters_alone_need_the_log_of_the_models(small: Path) -> None:
    with pytest.raises(UserError, match=r"pretraining\.json.*leave out --keep-model"):
        rebuild.run(0, keep_model=True)


@pytest.mark.parametrize("kind", measure.KINDS)
def test_scenes_are_of_their_kind_and_functions_of_the_seed(kind: str) -> None:
    found = measure.scenes_of(kind, 5, 0)
    assert len(found) == 5 and {scene.kind for scene in found} == {kind}
    assert measure.scenes_of(kind, 3, 0) == found[:3] and measure.scenes_of(kind, 5, 1) != found
