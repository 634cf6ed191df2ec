"""Two folders that must agree are compared before anything long runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from diffalign.core.errors import UserError
from diffalign.models.agreement import check_init
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3


def edited(file: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def moved_vae(folder: Path) -> None:
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["encoder.conv_in.weight"] += 0.1
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edited("scheduler/scheduler_config.json", prediction_type="v_prediction"), "prediction: 'epsilon' and 'v_"),
        (edited("scheduler/scheduler_config.json", beta_end=0.02), "alpha_bar: 1000 steps to"),
        (edited("vae/config.json", scaling_factor=0.13025), r"scaling_factor: 0\.18215 and 0\.13025"),
        (edited("vae/config.json", shift_factor=0.1), r"shift_factor: None and 0\.1"),
        (moved_vae, r"weights of encoder\.conv_in\.weight"),
    ],
)
def test_an_init_that_differs_from_the_model(change: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    base, own = make_model(tmp_path / "base"), make_model(tmp_path / "own")
    check_init("policies.p.init", "sd15", str(base), str(own))
    change(own)
    with pytest.raises(UserError, match=rf"policies\.p\.init: expected a model that agrees(.|\n)*{told}"):
        check_init("policies.p.init", "sd15", str(base), str(own))
    shutil.rmtree(own / "vae")
    check_init("policies.p.init", "sd15", str(base), str(own))


def test_an_init_of_other_latents(tmp_path: Path) -> None:
    base, own = make_model(tmp_path / "base"), make_model(tmp_path / "own", latent_channels=16)
    with pytest.raises(UserError, match=r"own/unet/config\.json: in_channels: expected 4"):
        check_init("policies.p.init", "sd15", str(base), str(own))


def test_a_flow_of_another_shift(tmp_path: Path) -> None:
    base, own = make_sd3(tmp_path / "base"), make_sd3(tmp_path / "own")
    edited("scheduler/scheduler_config.json", shift=1.0)(own)
    with pytest.raises(UserError, match=r"shift: 3\.0 and 1\.0"):
        check_init("policies.p.init", "sd3", str(base), str(own))
