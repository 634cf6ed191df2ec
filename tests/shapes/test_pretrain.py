"""The embedded model's parts: resumable fitting, the tokenizer, the folder that is written."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from diffalign.shapes.build import pretrain, tiny_model
from diffalign.shapes.build.fit import fit, orthogonal
from diffalign.shapes.scenes import COLOURS, GOOD, NUMBERS, PLACES, SHAPES


def _fit(folder, steps_at_once, total=6):
    """Fits a small net for `total` steps in runs that stop after each of `steps_at_once`; returns the average."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(1, 8), torch.nn.Conv2d(8, 3, 3))

    def loss(step):
        if step in steps_at_once and not (folder / f"stopped-{step}").exists():
            (folder / f"stopped-{step}").touch()
            raise KeyboardInterrupt
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        return model(x).square().mean(), {}

    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return fit("test", model, loss, steps=total, checkpoint=folder / "c.safetensors", warmup=2, save_every=2)


def test_an_earlier_average_is_kept(tmp_path):
    """After 2 of 4 steps; a run of 2 steps has that average at its end where the rate doesn't depend on the length."""

    def run(steps, keep):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3))
        x = torch.ones(1, 3, 4, 4)
        checkpoint = tmp_path / f"{steps}.safetensors"
        return fit("t", model, lambda _: (model(x).square().mean(), {}), steps=steps, checkpoint=checkpoint, keep=keep)

    run(4, {2: tmp_path / "early.safetensors"})
    early, whole = load_file(tmp_path / "early.safetensors"), run(2, None)
    assert early.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(early[key], value)
    assert any(not torch.equal(early[key], value) for key, value in run(4, None).items())


def test_resumed_equals_uninterrupted_bitwise(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = _fit(whole, [])
    with pytest.raises(KeyboardInterrupt):
        _fit(parts, [3])
    resumed = _fit(parts, [3])
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def test_each_seed_is_a_build_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        out = tmp_path / str(seed)
        pretrain.run(out, tmp_path / "others", seed, vae_steps=1, max_steps=2, spoil_steps=1, images=6, device="cpu")
    assert (tmp_path / "0/vae/config.json").exists() and not list((tmp_path / "runs").iterdir())
    for part in ("vae", "unet"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "0" / name).read_bytes() != (tmp_path / "1" / name).read_bytes()
    models = [tmp_path / "1", tmp_path / "others/weaker", tmp_path / "others/stronger"]
    assert len({(m / "unet/diffusion_pytorch_model.safetensors").read_bytes() for m in models}) == 3
    assert len({(m / "vae/diffusion_pytorch_model.safetensors").read_bytes() for m in models}) == 1


def test_orthogonal_brings_singular_values_to_one():
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert 0.6 < values.min() and values.max() < 1.3


def test_each_word_is_one_token_and_any_text_has_tokens():
    tokenizer = tiny_model.new_tokenizer()
    plurals = (shape + ("es" if shape == "cross" else "s") for shape in SHAPES)
    others = ("a", "an", "on", "background", "small", "large", "left", "of", "above", "at", "the")
    for word in (*others, *plurals, *NUMBERS.values(), *PLACES, *COLOURS, *SHAPES):
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("three small purple triangles at the bottom of a yellow background").input_ids) == 13
    ids = tokenizer("🙂 wörld\x00 漢字 <|endoftext|> '); DROP TABLE", truncation=True, max_length=20).input_ids
    assert len(ids) == 20 and max(ids) < len(tokenizer)
    longest = "a small purple triangle right of a large yellow triangle on a purple background"
    assert len(tokenizer(longest).input_ids) <= tiny_model.TOKENS


def test_batches_are_functions_of_seed_and_index():
    pixels, captions = pretrain.world_batch(0, 0, 6, GOOD)
    later, later_captions = pretrain.world_batch(0, 3, 3, GOOD)
    assert torch.equal(pixels[3:], later) and captions[3:] == later_captions
    assert pixels.shape == (6, 3, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1


def test_written_model_loads_in_stock_diffusers_and_draws(tmp_path):
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    tokenizer = tiny_model.new_tokenizer()
    parts = (
        tiny_model.new_vae(),
        tiny_model.new_unet(),
        tiny_model.new_text_encoder(tokenizer),
        tokenizer,
        tiny_model.new_scheduler(),
    )
    pretrain.write_model(tmp_path / "model", tiny_model.Tiny(*parts))
    assert sum(f.stat().st_size for f in (tmp_path / "model").rglob("*")) <= 15e6
    assert json.loads((tmp_path / "model" / "vae" / "config.json").read_text())["latent_channels"] == 16
    text = "a red circle on a blue background"
    model = tiny_model.load(tmp_path / "model")
    ours = tiny_model.sample(model, [text], [5], steps=4, guidance=4.0)[0]
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        text,
        num_inference_steps=4,
        guidance_scale=4.0,
        latents=torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(5)),
        output_type="np",
    ).images[0]
    assert np.abs(theirs * 255 - ours).max() <= 1.5


def test_noise_loss_by_hand():
    """A model that predicts 0 errs by ε² = 1 everywhere, so the loss is the mean weight min(SNR + 1, 5) / SNR ≤ 5.

    ᾱ = 1/2, 9/10, 1/10 give SNR 1, 9, 1/9; the weights are 2, 5/9 and min(10, 5) = 5; their mean is 68/27.
    """
    parts = {"unet": lambda x, t, context: type("Out", (), {"sample": torch.zeros_like(x)}), "text": lambda ids: [ids]}
    ones = torch.ones(3, 16, 8, 8)
    alpha_bar = torch.tensor([0.5, 0.9, 0.1], dtype=torch.float64)
    loss = pretrain.noise_loss(parts, ones, ones, torch.arange(3), torch.zeros(3, 20), alpha_bar)
    assert loss.item() == pytest.approx(68 / 27)


def test_a_forward_of_the_unet_is_cheap():
    """At most 0.09 GFLOP an image, a multiplication and an addition counted as two."""
    unet = tiny_model.new_unet()
    inputs = torch.zeros(1, 16, 8, 8), torch.tensor([1]), torch.zeros(1, tiny_model.TOKENS, tiny_model.WIDTH)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*inputs)
    assert 0.05e9 < counter.get_total_flops() <= 0.09e9
