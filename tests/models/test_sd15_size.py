"""Stable Diffusion 1.5's real configurations with random weights go through the sd15 preset, one step of each stage."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from diffalign.config.load import parse
from diffalign.core import yaml_file
from diffalign.data.shards.reader import Shards
from stages import generate, ingest, precompute, train
from tests.helpers import pickapic
from tests.helpers.project import REPO
from tests.helpers.tiny import make_tokenizer

pytestmark = pytest.mark.nightly

SIDE = 256
"""Pixels a side. The preset's 512 are four times the work, ten minutes on two cores."""

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_sd15(folder: Path) -> None:
    """Random weights of the published sizes: 860M UNet, 84M VAE, 123M text encoder. The vocabulary is a small one."""
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=make_tokenizer(77),
        unet=UNet2DConditionModel(**UNET),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def test_the_preset_fits_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One precompute batch, one LoRA training step and one image, in fp32 on the CPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", str(os.cpu_count()))
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(os.cpu_count() or 1)
    raw = yaml_file.read(REPO / "presets" / "sd15.yaml")
    policy = {
        **raw["policies"]["dpo"],
        "init": "sd15",
        "lora": {"rank": 16, "alpha": 16, "targets": None},
        "steps": 1,
        "batch_size": 1,
        "micro_batch_size": 1,
    }
    raw["policies"] = {"base": {"method": "none", "init": "sd15", "noise_seed": 0}, "dpo": policy}
    raw["data"]["path"], raw["model"]["path"] = "raw", "sd15"
    raw["generate"] |= {"prompts": 1, "seeds": 1, "steps": 1}
    raw["precompute"] |= {"batch_size": 2, "resolution": SIDE}
    values = parse(raw)
    make_sd15(tmp_path / "sd15")
    pickapic.write(tmp_path / "raw" / "train-00000-of-00001.parquet", pickapic.rows(1))
    pickapic.write(tmp_path / "raw" / "test_unique-00000-of-00001.parquet", pickapic.rows(1, start=1))

    ingest.run(values)
    precompute.run(values)
    images = Shards("data/shards", "images")
    assert images.get(images.keys()[0])["mean"].shape == (4, SIDE // 8, SIDE // 8)
    prompts = Shards("data/shards", "prompts")
    assert prompts.get(prompts.keys()[0])["hidden"].shape == (77, 768)

    train.run(values, "dpo")
    (point,) = [json.loads(line) for line in Path("curves/dpo.jsonl").read_text().splitlines()]
    assert point["loss"] == pytest.approx(0.693147, rel=1e-4)
    assert point["grad_norm"] > 0
    assert Path("models/policies/dpo/pytorch_lora_weights.safetensors").stat().st_size > 1e6

    generate.run(values, "dpo")
    manifest = json.loads(Path("images/dpo/manifest.json").read_text())
    with Image.open(Path("images/dpo") / manifest["images"][0]["file"]) as image:
        assert image.size == (SIDE, SIDE)
