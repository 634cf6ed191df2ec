"""A policy's whole model folder: the stock pipeline makes our pictures from it, whatever the adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.generation.pipeline import image_maker, no_noise, plain
from diffalign.models import export, policies
from diffalign.models import family as families
from tests.helpers.tiny import make_model

PROMPTS = ["a cat", "the dog"]


def make_policy(folder: Path, adapter: str) -> Path:
    """A policy with other weights than the model in model/: of a full denoiser, of LoRA, or the init itself."""
    policy = folder / "policies" / adapter
    policy.mkdir(parents=True)
    about = {"schema": 1, "name": adapter, "adapter": adapter, "init": str(folder / "model")}
    write_json(policy / "policy.json", about | {"init_fingerprint": None})
    if adapter == "full":
        shutil.copytree(make_model(folder / "other", seed=1) / "unet", policy / "unet")
    if adapter == "lora":
        model = families.load("sd15", folder / "model", ("denoiser",))
        policies.add_lora(model.denoiser, model.lora_targets, rank=2, alpha=4, seed=0)
        for name, value in model.denoiser.named_parameters():
            if "lora_B" in name:
                value.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        policies.save_denoiser(model, "lora", policy)
    return policy


@pytest.mark.parametrize("adapter", ["none", "full", "lora"])
def test_the_stock_pipeline_makes_our_pictures(adapter: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    policy = make_policy(tmp_path, adapter)
    out = tmp_path / "out"
    out.mkdir()
    export.write_pipeline("sd15", tmp_path / "model", policy, out)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    stock = StableDiffusionPipeline.from_pretrained(out)
    stock.set_progress_bar_config(disable=True)
    settings = {"height": 64, "width": 64, "num_inference_steps": 5, "guidance_scale": 4.0}
    expected = stock(PROMPTS, latents=start, output_type="pt", **settings).images
    model = policies.load_policy("sd15", tmp_path / "model", policy)
    made = image_maker(model, model.denoise, 64, plain(model.process, 5, 4.0))(PROMPTS, start, no_noise)
    torch.testing.assert_close(torch.from_numpy(made).permute(0, 3, 1, 2) / 255, expected, rtol=0, atol=1.01 / 255)
    base = families.load("sd15", tmp_path / "model")
    others = image_maker(base, base.denoise, 64, plain(base.process, 5, 4.0))(PROMPTS, start, no_noise)
    assert (abs(others.astype(int) - made).max() > 8) == (adapter != "none")
    assert (out / "lora" / policies.LORA).exists() == (adapter == "lora")


def test_parts_that_are_not_there_are_null_in_the_index(tmp_path: Path) -> None:
    """As fetch leaves a folder of the hub: the safety checker stays there, its line in the index comes."""
    model = make_model(tmp_path / "model")
    index = json.loads((model / export.INDEX).read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (model / export.INDEX).write_text(json.dumps(index))
    found = export.index(model)
    assert found["safety_checker"] == [None, None] and found["requires_safety_checker"] is False
    assert found["unet"] == ["diffusers", "UNet2DConditionModel"]
    (model / export.INDEX).unlink()
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        export.index(model)
