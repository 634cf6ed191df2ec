"""The sd15 family against the stock pipeline's parts, and what a broken folder says."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffalign.core.errors import UserError
from diffalign.generation import pipeline as generation
from diffalign.models import family as families
from tests.helpers.tiny import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("family") / "model", latent_channels=16)


def test_sampling_is_the_stock_pipelines(folder: Path) -> None:
    """The same noise, prompt, steps and guidance give the stock pipeline's picture."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        ["a cat", "the dog"], latents=noise, num_inference_steps=5, guidance_scale=4.0, output_type="pt"
    ).images
    model = families.load("sd15", folder)
    make = generation.pictures(model, model.denoise, 64, generation.plain(model.process, 5, 4.0))
    with torch.no_grad():
        pixels = make(["a cat", "the dog"], noise, generation.no_noise)
    torch.testing.assert_close(pixels / 2 + 0.5, expected, rtol=1e-3, atol=1e-3)


def test_encoding_is_scaled_and_decodes_back_through_the_stock_vae(folder: Path) -> None:
    model = families.load("sd15", folder, ("vae",))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = model.encode_image(pixels)
    posterior = model.vae.encode(pixels).latent_dist
    scale = model.vae.config.scaling_factor
    torch.testing.assert_close(moments["mean"], posterior.mean * scale)
    torch.testing.assert_close((0.5 * moments["logvar"]).exp(), posterior.std * scale)
    torch.testing.assert_close(model.decode(moments["mean"]), model.vae.decode(moments["mean"] / scale).sample)


def test_decode_is_differentiable(folder: Path) -> None:
    model = families.load("sd15", folder, ("vae",))
    x0 = torch.zeros(1, 16, 8, 8, requires_grad=True)
    model.decode(x0).sum().backward()
    assert x0.grad is not None
    assert x0.grad.abs().sum() > 0


def test_fingerprint_follows_contents_not_places(folder: Path, tmp_path: Path) -> None:
    same = families.load("sd15", make_model(tmp_path / "same", latent_channels=16), ()).fingerprint()
    other = families.load("sd15", make_model(tmp_path / "other", latent_channels=16, seed=1), ()).fingerprint()
    mine = families.load("sd15", folder, ()).fingerprint()
    assert mine == same
    assert mine["vae"] != other["vae"]
    assert mine["tokenizer"] == other["tokenizer"]


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a Stable Diffusion model folder.*missing scheduler, vae"):
        families.load("sd15", tmp_path, ("vae",))


def test_a_broken_network(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    next((folder / "vae").glob("*.safetensors")).write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match=r"vae can't be loaded as AutoencoderKL"):
        families.load("sd15", folder, ("vae",))


def test_an_unknown_schedule(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(
        UserError, match=r"beta_schedule: expected 'scaled_linear' or 'linear', found 'squaredcos_cap_v2'"
    ):
        families.load("sd15", folder, ())
