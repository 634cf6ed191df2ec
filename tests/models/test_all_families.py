"""Every family against its stock pipeline, from pixels to a policy: v-prediction, SDXL, SD3 with T5 and without."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.data.batches.pair_batches import PairSource
from diffalign.data.batches.pairs import held_out_pairs, make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import Shards, image_cond, prompt_key
from diffalign.generation.pipeline import image_maker, initial_noise, no_noise, plain
from diffalign.models import family as families
from diffalign.models.policies import add_lora, load_policy
from diffalign.reference.reference import live
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, load_init, make_accelerator
from stages import evaluate, generate, ingest, precompute, reference
from tests.helpers import pickapic, specs
from tests.helpers.project import make_params
from tests.helpers.specs import train_here
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import JOINT, make_sd3, make_sdxl


@dataclass(frozen=True)
class Case:
    """A model, and what is particular about it."""

    family: str
    make: Callable[[Path], Path]
    channels: int


CASES = {
    "v": Case("sd15", lambda folder: make_model(folder, prediction="v_prediction"), 4),
    "sdxl": Case("sdxl", make_sdxl, 4),
    "sdxl_empty": Case("sdxl", lambda folder: make_sdxl(folder, zeros_for_empty=False), 4),
    "sd3": Case("sd3", make_sd3, 16),
    "sd3_t5": Case("sd3", lambda folder: make_sd3(folder, t5=True), 16),
}
ABSENT = {"text_encoder_3": None, "tokenizer_3": None}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
PROMPTS = ["a cat", "the dog"]
SETTINGS = {"height": 64, "width": 64, "num_inference_steps": 5, "guidance_scale": 4.0}
POLICIES = {
    "base": {"method": "none"},
    "full": {"method": "dpo", "steps": 2, "flip": "independent"},
    "lora": {"method": "dpo", "steps": 2, "lora": {"rank": 4, "alpha": 8, "targets": None}, "lr": 1e-2},
}

PROBE = {"every": 2, "pairs": 1, "draws": 1, "images": 1, "image_steps": 5, "rewards": []}


def stock(case: Case, folder: Path) -> Any:
    """The stock pipeline on a model folder; without T5 where its folder isn't there."""
    absent = {} if case.family != "sd3" or (folder / "text_encoder_3").exists() else ABSENT
    pipeline = getattr(diffusers, families.find(case.family).pipeline).from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(case: Case) -> torch.Tensor:
    return torch.randn(2, case.channels, 8, 8, generator=torch.Generator().manual_seed(0))


def drawn(model: families.Family, start: torch.Tensor) -> torch.Tensor:
    """Our pictures as generate makes them, [B, 3, H, W] in 0..1."""
    how = plain(model.process, SETTINGS["num_inference_steps"], SETTINGS["guidance_scale"])
    return (
        torch.from_numpy(image_maker(model, model.denoise, 64, how)(PROMPTS, start, no_noise)).permute(0, 3, 1, 2) / 255
    )


@pytest.mark.parametrize("name", CASES)
def test_sampling_is_the_stock_pipelines(name: str, tmp_path: Path) -> None:
    """The same noise, prompts, steps and guidance give the stock pipeline's pictures, to a level of 8 bits."""
    case = CASES[name]
    folder = case.make(tmp_path / "model")
    expected = stock(case, folder)(PROMPTS, latents=noise(case), output_type="pt", **SETTINGS).images
    ours = drawn(families.load(case.family, folder), noise(case))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1.01 / 255)
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", ["sdxl", "sd3", "sd3_t5"])
def test_prompts_are_encoded_as_in_the_stock_pipeline(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = case.make(tmp_path / "model")
    cond = families.load(case.family, folder, ("text",)).encode_prompt(PROMPTS)
    prompts = {"prompt_2": PROMPTS} | ({"prompt_3": PROMPTS} if case.family == "sd3" else {})
    hidden, _, pooled, _ = stock(case, folder).encode_prompt(PROMPTS, **prompts, device=torch.device("cpu"))
    torch.testing.assert_close(cond["pooled"], pooled, **CLOSE)
    L, D = cond["hidden"].shape[1:]
    torch.testing.assert_close(cond["hidden"], hidden[:, :L, :D], **CLOSE)
    if case.family == "sd3":
        assert hidden.shape[1:] == (L + 256, JOINT)
        assert not hidden[:, :L, D:].any(), "the CLIPs' states are padded with zeros"
        t5 = cond.get("t5", torch.zeros(2, 256, JOINT))
        torch.testing.assert_close(t5, hidden[:, L:], **CLOSE)
        assert t5.any() == (name == "sd3_t5")


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_latents_are_scaled_and_shifted_as_the_denoiser_sees_them(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = families.load(case.family, case.make(tmp_path / "model"), ("vae",))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments, posterior, config = model.encode_image(pixels), model.vae.encode(pixels).latent_dist, model.vae.config
    shift = 0.0609 if name == "sd3" else 0.0
    torch.testing.assert_close(moments["mean"], (posterior.mean - shift) * config.scaling_factor)
    torch.testing.assert_close((0.5 * moments["logvar"]).exp(), posterior.std * config.scaling_factor)
    torch.testing.assert_close(
        model.decode(moments["mean"]), model.vae.decode(posterior.mean).sample, rtol=0, atol=1e-4
    )


@pytest.fixture(scope="module", params=["v", "sdxl", "sd3", pytest.param("sd3_t5", marks=pytest.mark.slow)])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, Params]]:
    """A project with a family's shards; the tests work in it. Its images are wide ones, so that the crop matters."""
    case = CASES[request.param]
    folder, before = tmp_path_factory.mktemp(request.param), Path.cwd()
    os.chdir(folder)
    case.make(folder / "model")
    for split, rows in (("train", range(6)), ("test_unique", range(6, 9)), ("validation_unique", range(9, 10))):
        pickapic.write(
            folder / "raw" / f"{split}-00000-of-00001.parquet",
            [
                pickapic.row(
                    n, "ab"[n % 2], jpg_0=pickapic.image(2 * n, (97, 64)), jpg_1=pickapic.image(2 * n + 1, (80, 3000))
                )
                for n in rows
            ],
        )
    values = make_params(
        folder,
        POLICIES,
        model={"family": case.family},
        precompute={"flips": True},
        probe=PROBE,
        rewards={},
    )
    ingest.run(values)
    precompute.run(values)
    yield case, values
    os.chdir(before)


def test_shards_hold_what_the_network_is_told(project: tuple[Case, Params]) -> None:
    """A 97 x 64 image is cropped at (97 - 64) // 2 = 16, mirrored at 97 - 64 - 16 = 17; sizes over 2048 are exact."""
    case, _ = project
    images = Shards("data/shards", "images")
    samples = list(map(images.get, images.keys()))
    told = [[image_cond(sample, flip) for sample in samples] for flip in (False, True)]
    if case.family != "sdxl":
        assert all(cond == {} for each in told for cond in each)
        return
    for each, left in zip(told, (16, 17), strict=True):
        sizes = {tuple(cond["time_ids"].tolist()) for cond in each}
        # Of 80 x 3000, resized to 64 x 2400, (2400 - 64) / 2 is above.
        assert sizes == {(64, 97, 0, left, 64, 64), (3000, 80, 1168, 0, 64, 64)}


def test_shards_hold_each_encoding_of_a_prompt(project: tuple[Case, Params]) -> None:
    """All that training asks for is there, T5's states where the model has a T5, as the family encodes them."""
    case, _ = project
    (pair,) = make_pairs(comparisons.read(Path("data/comparisons")), "validation")
    model, shards = families.load(case.family, "model", ("text",)), Shards("data/shards", "prompts")
    for prompt in ("", pair.prompt):
        expected = {key: value[0] for key, value in model.encode_prompt([prompt]).items()}
        assert ("t5" in expected) == Path("model/text_encoder_3").exists()
        stored = shards.get(prompt_key(prompt))
        assert stored.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(stored[key].float(), value, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_trained_policy_draws_the_same_in_the_stock_pipeline(
    project: tuple[Case, Params], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of DPO from ln 2; then the stock pipeline, given the published files, draws what ours draws."""
    case, values = project
    curve = train_here(values, policy, monkeypatch)
    assert [point["step"] for point in curve] == [1, 2]
    assert curve[0]["loss"] == pytest.approx(0.693147, rel=1e-5)
    assert curve[0]["grad_norm"] > 0 and curve[1]["loss"] != curve[0]["loss"]

    folder = Path("models/policies") / policy
    before = stock(case, Path("model"))(PROMPTS, latents=noise(case), output_type="pt", **SETTINGS).images
    pipeline = stock(case, Path("model"))
    if policy == "lora":
        pipeline.load_lora_weights(folder)
    else:
        part = families.find(case.family).denoiser_folder
        setattr(pipeline, part, type(getattr(pipeline, part)).from_pretrained(folder / part))
    expected = pipeline(PROMPTS, latents=noise(case), output_type="pt", **SETTINGS).images
    ours = drawn(load_policy(case.family, "model", folder), noise(case))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1.01 / 255)
    assert (expected - before).abs().max() > 3 / 255, "training moved the pictures"


@pytest.mark.parametrize("policy", ["full", "lora"])
def test_a_probe_draws_what_the_published_policy_draws(
    project: tuple[Case, Params], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's picture of the one validation prompt, from the noise that generate gives it."""
    case, values = project
    if not Path("models/policies", policy).exists():
        train_here(values, policy, monkeypatch)
    with Image.open(Path("models/policies", policy, "probe", "step-000002.png")) as picture:
        seen = torch.from_numpy(np.asarray(picture)[None].astype(np.float32))
    (pair,) = make_pairs(comparisons.read(Path("data/comparisons")), "validation")
    start = initial_noise(values.policies[policy].noise_seed, pair.prompt, 0, (case.channels, 8, 8))[None]
    model = load_policy(case.family, "model", Path("models/policies", policy))
    how = plain(model.process, values.probe.image_steps, values.probe.guidance)
    make_images = image_maker(model, model.denoise, 64, how)
    made_again = torch.from_numpy(make_images([pair.prompt], start, no_noise).astype(np.float32))
    torch.testing.assert_close(seen, made_again, rtol=0, atol=1)
    assert seen.std() > 1


def test_a_cached_reference_is_each_familys(
    project: tuple[Case, Params], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Kept errors agree with the live reference's at the start, whatever the network is told and t is."""
    case, _ = project
    values = make_params(
        Path.cwd(),
        {"base": POLICIES["base"], "kept": {**POLICIES["full"], "reference": "cached"}},
        model={"family": case.family},
        precompute={"flips": True},
        reference={"draws": 2, "flip": "independent"},
        rewards={},
        probe={"rewards": []},
    )
    reference.run(values)
    assert train_here(values, "kept", monkeypatch)[0]["loss"] == pytest.approx(0.693147, rel=1e-4)
    assert "64 kept margins or more agree with the live reference's" in capfd.readouterr().err
    shutil.rmtree("models/policies/kept")
    Path("curves/kept.jsonl").unlink()


def test_a_lora_that_is_off_is_a_frozen_copy(project: tuple[Case, Params]) -> None:
    """Moved adapters change the policy's errors; the reference's are those of a freshly loaded init, bit for bit."""
    _, values = project
    spec = specs.spec(values, "lora")
    learner = build(spec, make_accelerator("cpu", 1, "fp32"))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.trainable.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    batch = next(Sources(spec, learner).source(PairSource).at(0))
    trained, frozen = live(learner.model.denoise), live(load_init(spec, torch.device("cpu")).denoise)
    before, off, after = (torch.cat(errors(batch)) for errors in (trained, learner.reference, trained))
    assert torch.equal(off, torch.cat(frozen(batch)))
    assert torch.equal(before, after), "the adapters are on again"
    assert ((before - off).abs() > 1e-4 * off).all(), "the adapters do something, for each image"


def test_what_comes_after_training(project: tuple[Case, Params], monkeypatch: pytest.MonkeyPatch) -> None:
    """The untrained policy's images and their manifest; the implicit reward of a trained one on held-out pairs."""
    case, values = project
    train_here(values, "base", monkeypatch)
    train_here(values, "full", monkeypatch)
    generate.run(values, "base")
    sampler = json.loads(Path("images/base/manifest.json").read_text())["sampler"]
    assert sampler["name"] == ("flow_euler" if case.family == "sd3" else "dpmpp_2m")
    table = comparisons.read(evaluate.COMPARISONS)
    pairs = held_out_pairs(table, "test", values.pairs.rule, values.pairs.raters, values.pairs.axes)
    trained = values.model_copy(update={"policies": {"full": values.policies["full"]}})
    rewards = evaluate.measured(trained, pairs)["full"]
    assert rewards.shape == (3, 2) and (rewards != 0).all()


REAL = {
    "sdxl": (
        lambda: diffusers.UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        {"hidden": (2, 77, 768 + 1280), "pooled": (2, 1280), "time_ids": (2, 6)},
        2.567e9,
    ),
    "sd3": (
        lambda: diffusers.SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        ),
        {"hidden": (2, 77, 768 + 1280), "pooled": (2, 768 + 1280)},
        2.03e9,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_published_denoisers_take_what_they_are_given(name: str, tmp_path: Path) -> None:
    """The published configurations at 1024 pixels, shapes alone: tensors without storage."""
    make, shapes, size = REAL[name]
    case = CASES[name]
    model = families.load(case.family, case.make(tmp_path / "m"), ("denoiser",))
    with torch.device("meta"):
        model.denoiser = make().to("meta")
        model.joint_width = 4096  # type: ignore[attr-defined]
        x_t, t = torch.empty(2, case.channels, 128, 128), torch.ones(2)
        cond = {key: torch.empty(shape) for key, shape in shapes.items()}
    assert sum(p.numel() for p in model.denoiser.parameters()) == pytest.approx(size, rel=3e-2)
    with torch.no_grad():
        assert model.denoise(x_t, t, cond).shape == x_t.shape


@pytest.mark.parametrize("name", ["v", "sdxl", "sd3"])
def test_every_weight_gets_a_gradient(name: str, tmp_path: Path) -> None:
    """With several processes a weight without one would stop the run."""
    case = CASES[name]
    model = families.load(case.family, case.make(tmp_path / "m"), ("text", "denoiser"))
    model.denoiser.requires_grad_(True)
    image = {key: value.expand(2, -1) for key, value in model.image_cond((64, 64), (0, 0), (64, 64)).items()}
    t = torch.tensor([model.process.time(share) for share in (0.3, 0.6)])
    model.denoise(noise(case), t, model.encode_prompt(PROMPTS) | image).square().sum().backward()
    assert [key for key, p in model.denoiser.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("family", "make"), [("sd15", make_sdxl), ("sdxl", make_model)])
def test_another_familys_denoiser(family: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = families.load(family, (make_sdxl if family == "sdxl" else make_model)(tmp_path / "own"), ())
    with pytest.raises(UserError, match=r"unet/config\.json: addition_embed_type: expected"):
        model.load_denoiser(make(tmp_path / "other"))


def test_lora_goes_where_it_is_told(tmp_path: Path) -> None:
    """Eight projections in two blocks; the last block's text stream ends there and has no to_add_out."""
    folder = make_sd3(tmp_path / "m")
    denoiser = families.load("sd3", folder, ("denoiser",)).denoiser
    add_lora(denoiser, families.find("sd3").lora_targets, rank=2, alpha=2, seed=0)
    trained = [name for name, p in denoiser.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * (2 * 8 - 1)
    denoiser = families.load("sd3", folder, ("denoiser",)).denoiser
    add_lora(denoiser, ["to_q"], rank=2, alpha=2, seed=0)
    trained = [name for name, p in denoiser.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all(".attn.to_q.lora_" in name for name in trained)


def test_a_misspelt_lora_target(tmp_path: Path) -> None:
    """PEFT takes the others and says nothing; ones that can't carry LoRA it refuses itself."""
    denoiser = families.load("sd3", make_sd3(tmp_path / "m"), ("denoiser",)).denoiser
    told = (
        r"policies\.p\.lora_targets: expected names of modules of the SD3Transformer2DModel, found none named toq, "
        r"attn\.q among to_k, toq, attn\.q; it has .*\bto_add_out, to_k, to_out\.0, to_q, to_v$"
    )
    with pytest.raises(UserError, match=told):
        add_lora(denoiser, ["to_k", "toq", "attn.q"], 2, 2, seed=0, key="policies.p.lora_targets")
    assert all(not p.requires_grad and "lora" not in name for name, p in denoiser.named_parameters())
    with pytest.raises(UserError, match=r"policies\.p\.lora_targets: .* that can carry LoRA, got transformer_blocks"):
        add_lora(denoiser, ["transformer_blocks"], 2, 2, seed=0, key="policies.p.lora_targets")


def test_an_absent_denoiser_is_named_by_its_family(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    with pytest.raises(UserError, match="expected a folder with transformer/ in it"):
        families.denoiser_weights("policies.dpo.init", "sd3", str(tmp_path))


def test_a_flow_that_isnt_sd3s(tmp_path: Path) -> None:
    folder = make_sd3(tmp_path / "m")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dynamic_shifting": True}))
    with pytest.raises(UserError, match=r"scheduler_config\.json: use_dynamic_shifting: expected False, found true"):
        families.load("sd3", folder, ())


def test_shards_of_t5_arent_those_without(tmp_path: Path) -> None:
    one = families.load("sd3", make_sd3(tmp_path / "a", t5=True), ()).fingerprint()
    other = families.load("sd3", make_sd3(tmp_path / "b"), ()).fingerprint()
    assert (one["t5"], other["t5"]) == (True, False)
