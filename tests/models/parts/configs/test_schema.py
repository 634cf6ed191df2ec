"""Config files: each key is used, neutral or refused, before anything is loaded."""

import inspect
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models.parts.configs.autoencoder import Autoencoder
from diffalign.models.parts.configs.schedulers import FlowSchedule, Schedule
from diffalign.models.parts.configs.schema import Config
from diffalign.models.parts.configs.text import T5, CLIPText
from diffalign.models.parts.configs.unet import UNet
from diffalign.models.sd3 import MMDiT
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

MAKE: dict[str, Callable[[Path], Path]] = {"sd15": make_model, "sdxl": make_sdxl, "sd3": lambda f: make_sd3(f, t5=True)}
NONSENSE: list[Any] = [
    *(None, "x", "", -1, 0, 1, 10**18, 10**400, 1.5, 1e308, -1e308, float("nan"), float("inf"), True, False),
    *([], [0], ["x"], [1, 2, 3], [[]], {}, {"a": 1}),
]
SEED, CASES = 20, 260
"""Mutations drawn for each family."""


def check(family: str, folder: Path) -> families.Shapes:
    return families.find(family).check(folder, families.denoiser_folder(family, folder))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def config_files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("*/config.json")), folder / "scheduler" / "scheduler_config.json"]


def mutations(folder: Path, rng: random.Random) -> Iterator[tuple[Path, str, Any]]:
    """All keys with all nonsense values, shuffled."""
    keys = [(path, key) for path in config_files(folder) for key in json.loads(path.read_text())]
    found = [(path, key, value) for path, key in keys for value in NONSENSE]
    rng.shuffle(found)
    yield from found


@pytest.mark.parametrize("family", MAKE)
def test_nonsense_in_a_config_is_one_error_that_names_file_key_and_value(family: str, tmp_path: Path) -> None:
    """Either the model still loads, or a UserError names file and key, quickly, with no other exception."""
    folder = MAKE[family](tmp_path / "m")
    check(family, folder)
    refused = loaded = 0
    for path, key, value in list(mutations(folder, random.Random(SEED)))[:CASES]:
        before, start = path.read_text(), time.monotonic()
        edit(path, **{key: value})
        try:
            check(family, folder)
        except UserError as error:
            refused += 1
            text = str(error)
            assert path.name in text and path.parent.name in text, (path, key, value)
            assert key in text or f"({key}" in text or key in str(error.__cause__), (path, key, value, text)
        else:
            try:
                families.load(family, folder, device="cpu")
                loaded += 1
            except UserError as error:
                # A network that another, possible value describes: its weights are missing or of another shape.
                assert path.parent.name in str(error), (path, key, value)
        finally:
            path.write_text(before)
        assert time.monotonic() - start < 20, (path, key, value)
    assert refused > CASES / 2 and loaded > 5


def test_a_schedule_of_many_timesteps_takes_no_memory(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    edit(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=10**18)
    told = r"scheduler_config\.json: num_train_timesteps: expected less than or equal to 100000, found 10{18}"
    with pytest.raises(UserError, match=told):
        families.load("sd15", folder, ())


SCHEDULE = "scheduler/scheduler_config.json"
CHANGES = [
    ("sd15", SCHEDULE, "timestep_spacing", "trailing"),
    ("sd15", SCHEDULE, "thresholding", True),
    ("sd15", SCHEDULE, "clip_sample", True),
    ("sd15", SCHEDULE, "set_alpha_to_one", True),
    ("sd15", SCHEDULE, "steps_offset", 0),
    ("sd15", SCHEDULE, "rescale_betas_zero_snr", True),
    ("sd15", SCHEDULE, "a_key_of_tomorrow", 1),
    ("sdxl", SCHEDULE, "use_karras_sigmas", True),
    ("sd3", SCHEDULE, "shift_terminal", 0.1),
    ("sd3", SCHEDULE, "invert_sigmas", True),
    ("sdxl", "vae/config.json", "latents_mean", [0.0, 0.0, 0.0, 0.0]),
    ("sd3", "vae/config.json", "_class_name", "AutoencoderTiny"),
    ("sd15", "text_encoder/config.json", "use_attention_mask", True),
    ("sd15", "text_encoder/config.json", "quantization_config", {"bits": 8}),
    ("sd15", "unet/config.json", "in_channels", 9),
    ("sd15", "unet/config.json", "class_embed_type", "timestep"),
    ("sd15", "unet/config.json", "cross_attention_dim", 24),
    ("sd15", "unet/config.json", "out_channels", 8),
    ("sd15", "unet/config.json", "time_cond_proj_dim", 32),
    ("sdxl", "unet/config.json", "projection_class_embeddings_input_dim", 81),
    ("sdxl", "model_index.json", "requires_aesthetics_score", True),
    ("sd15", "model_index.json", "_class_name", "StableDiffusionInpaintPipeline"),
    ("sd3", "transformer/config.json", "pooled_projection_dim", 47),
    ("sd3", "transformer/config.json", "joint_attention_dim", 72),
    ("sd15", "tokenizer/tokenizer_config.json", "model_max_length", 5),
]


@pytest.mark.parametrize(("family", "file", "key", "value"), CHANGES)
def test_what_changes_the_process_or_the_encoding_is_refused(
    family: str, file: str, key: str, value: Any, tmp_path: Path
) -> None:
    """Precompute, which loads no denoiser, refuses it too."""
    folder = MAKE[family](tmp_path / "m")
    edit(folder / file, **{key: value})
    with pytest.raises(UserError, match=rf"{file}: {key}: .*expected"):
        families.load(family, folder, ("vae", "text"))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (
            "timestep_spacing",
            "trailing",
            r"'leading' \(images are made at the times that generate\.sampler\.spacing says",
        ),
        ("rescale_betas_zero_snr", True, r"False \(models trained on a schedule that ends in pure noise"),
    ],
)
def test_a_schedule_that_is_not_supported_says_why(key: str, value: Any, why: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    edit(folder / SCHEDULE, **{key: value})
    with pytest.raises(UserError, match=rf"{SCHEDULE}: {key}: expected {why}.*, found "):
        families.load("sd15", folder, ())


@pytest.mark.parametrize(
    "change",
    [
        {"trained_betas": [1e-4 + i * 2e-5 for i in range(1000)]},
        {"beta_schedule": "linear"},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
        {"prediction_type": "v_prediction"},
    ],
)
def test_the_schedule_is_the_stock_schedulers(change: dict[str, Any], tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    edit(folder / SCHEDULE, **change)
    stock = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    process: Any = families.load("sd15", folder, ()).process
    torch.testing.assert_close(process.alpha_bar, stock.alphas_cumprod, rtol=1e-6, atol=0)
    assert process.prediction == stock.config.prediction_type


def test_a_key_that_a_file_lacks_has_its_classs_default(tmp_path: Path) -> None:
    """DDIMScheduler's clip_sample is true and its set_alpha_to_one too."""
    folder = make_model(tmp_path / "m")
    path = folder / SCHEDULE
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({key: raw[key] for key in raw if key not in ("clip_sample", "set_alpha_to_one")}))
    with pytest.raises(UserError, match=r"set_alpha_to_one: expected False, found true\n.*clip_sample: expected False"):
        families.load("sd15", folder, ())


NETWORKS: list[tuple[type[Config], Any]] = [
    (UNet, diffusers.UNet2DConditionModel),
    (Autoencoder, diffusers.AutoencoderKL),
    (MMDiT, diffusers.SD3Transformer2DModel),
    (FlowSchedule, diffusers.FlowMatchEulerDiscreteScheduler),
]


@pytest.mark.parametrize(("schema", "cls"), NETWORKS)
def test_every_key_of_the_installed_class_is_decided(schema: type[Config], cls: Any) -> None:
    """A new release's new key fails here, and a default that isn't the library's."""
    stock = {k: v.default for k, v in inspect.signature(cls.__init__).parameters.items() if k != "self"}
    fields = schema.model_fields
    assert set(stock) <= set(fields) | schema.neutral
    for key, field in fields.items():
        if key in stock and not field.is_required():
            assert field.default == stock[key], key


@pytest.mark.parametrize("name", inspect.signature(Schedule).parameters["_class_name"].annotation.__args__)
def test_every_key_of_the_diffusion_schedulers_is_decided(name: str) -> None:
    stock = {k: v.default for k, v in inspect.signature(getattr(diffusers, name).__init__).parameters.items()}
    assert set(stock) - {"self"} <= set(Schedule.model_fields) | Schedule.neutral
    defaults = Schedule.add_defaults({"_class_name": name})  # type: ignore[operator]
    for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample"):
        assert key not in stock or defaults[key] == stock[key], key


@pytest.mark.parametrize(("schema", "cls"), [(CLIPText, transformers.CLIPTextConfig), (T5, transformers.T5Config)])
def test_every_key_that_transformers_writes_is_decided(schema: type[Config], cls: Any) -> None:
    assert set(cls().to_diff_dict()) <= set(schema.model_fields) | schema.neutral
