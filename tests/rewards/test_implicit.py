"""A policy as a judge: the formula by hand on a tiny model, zero for the reference itself, missing where not finite."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.diffusion.reward_draws import reward_draw
from diffalign.diffusion.timesteps import Times
from diffalign.models import family as families
from diffalign.rewards import reward as rewards
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sdxl

DRAWS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a policy with another denoiser, and one that is the model's own."""
    folder = tmp_path_factory.mktemp("implicit")
    make_model(folder / "model")
    make_model(folder / "other", seed=1)
    for name, source in (("policy", "other"), ("same", "model")):
        shutil.copytree(folder / source / "unet", folder / name / "unet")
        write_json(folder / name / "policy.json", {"schema": 1, "adapter": "full", "init": "model"})
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "policy": str(folder / "policy"),
        "family": "sd15",
        "model": str(folder / "model"),
        "init": str(folder / "model"),
        "resolution": 32,
        "draws": DRAWS,
        "timesteps": [0.4, 1.0],
        "timestep_density": "uniform",
        "seed": 0,
        "batch_size": 4,
    } | changes


def pixels(count: int, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def by_hand(folder: Path, image: Tensor, prompt: str) -> float:
    """One image, one draw at a time: mean square errors of both denoisers."""
    found = []
    models = []
    for denoiser in ("model", "other"):
        model = families.load("sd15", folder / "model", ("vae", "text"))
        model.load_denoiser(folder / denoiser)
        models.append(model)
    x0 = models[0].encode_image(image[None])["mean"]
    cond = models[0].encode_prompt([prompt])
    process = models[0].process
    for k in range(DRAWS):
        t, eps = reward_draw(0, prompt, k, tuple(x0.shape[1:]), Times(process, 0.4, 1.0))
        at = torch.tensor([t])
        target = process.target(x0, eps[None], at)
        noisy = process.noised(x0, eps[None], at)
        before, after = (((model.denoise(noisy, at, cond) - target) ** 2).mean() for model in models)
        found.append(float(before - after))
    return sum(found) / len(found)


def test_the_score_is_the_formulas(folder: Path) -> None:
    """Whatever goes into a forward; each image by itself."""
    images, prompts = pixels(2), ["a red cat", ""]
    expected = torch.tensor([by_hand(folder, image, prompt) for image, prompt in zip(images, prompts, strict=True)])
    for size in (1, 4, 16):
        reward = rewards.load("implicit", settings(folder, batch_size=size), "cpu")
        torch.testing.assert_close(reward(images, prompts), expected, atol=1e-5, rtol=1e-4)
    assert expected.abs().min() > 1e-3


def test_the_reference_itself_implies_nothing(folder: Path) -> None:
    reward = rewards.load("implicit", settings(folder, policy=str(folder / "same")), "cpu")
    assert reward(pixels(2), ["a", "b"]).tolist() == [0, 0]


def test_an_image_that_isnt_finite_has_no_score_and_others_sizes_are_resized(folder: Path) -> None:
    reward = rewards.load("implicit", settings(folder), "cpu")
    images = pixels(2, 48)
    whole = reward(images, ["a", "b"])
    images[0, 0, 0, 0] = float("inf")
    found = reward(images, ["a", "b"])
    assert found.isnan().tolist() == [True, False] and found[1] == whole[1]


def test_another_policy_is_another_version_and_none_is_told(folder: Path, tmp_path: Path) -> None:
    first, second = (
        rewards.load("implicit", settings(folder, policy=str(folder / name)), "cpu").version
        for name in ("policy", "same")
    )
    assert first != second
    with pytest.raises(UserError, match=r"expected a trained policy's folder, found no policy\.json"):
        rewards.load("implicit", settings(folder, policy=str(tmp_path)), "cpu")


def test_sdxl_is_told_the_images_size(tmp_path: Path) -> None:
    make_sdxl(tmp_path / "model")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "unet").symlink_to(tmp_path / "model" / "unet")
    write_json(tmp_path / "policy" / "policy.json", {"schema": 1, "adapter": "full", "init": "model"})
    reward = rewards.load("implicit", settings(tmp_path, family="sdxl", resolution=64), "cpu")
    assert reward(pixels(1, 64), ["a cat"]).tolist() == [0]
