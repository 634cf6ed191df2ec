"""The original layout of each family: names, prefixes, and what the file's metadata and UIs call the family."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.models.layouts import mmdit, text, unet
from diffalign.models.layouts.place import Places
from diffalign.models.parts.configs.model import CONFIG, SCHEDULER
from diffalign.models.parts.configs.schedulers import Schedule
from diffalign.models.parts.configs.schema import read, read_json
from diffalign.models.parts.configs.unet import UNet


@dataclass(frozen=True)
class Source:
    """The folder of a model, whose VAE and text encoders count, and that of the denoiser that takes its place."""

    model: Path
    denoiser: Path


SD2_WIDTH = 1024
"""The width of the prompt's states by which UIs, too, tell Stable Diffusion 2 from 1."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder: its folder, the prefix of its tensors' names in a checkpoint, and these names."""

    folder: str
    prefix: str
    places: Places


@dataclass(frozen=True)
class Original:
    """A family's original layout."""

    denoiser: Callable[[Path], Places]
    """The denoiser's names, by its config file."""
    encoders: Callable[[Source], Sequence[Encoder]]
    architecture: Callable[[Source], str]
    """Its name in `modelspec.architecture`."""
    prediction: Callable[[Source], str]
    """What the denoiser predicts, in `modelspec.prediction_type`."""
    renamed: bool
    """Whether kohya's scripts call modules as the original layout does, not as diffusers does."""
    version: str
    """What kohya's scripts call the base model, in `ss_base_model_version`."""
    known: Callable[[Source], bool]
    """Whether the denoiser has one of the sizes that UIs know."""


def sd_encoders(source: Source) -> list[Encoder]:
    """Returns the text encoder of Stable Diffusion 1 or 2."""
    if width(source) == SD2_WIDTH:
        return [Encoder("text_encoder", "cond_stage_model.model.", text.open_clip)]
    return [Encoder("text_encoder", "cond_stage_model.transformer.", text.transformers)]


def sdxl_encoders(_: Source) -> list[Encoder]:
    """Returns the two text encoders of Stable Diffusion XL."""
    return [
        Encoder("text_encoder", "conditioner.embedders.0.transformer.", text.transformers),
        Encoder("text_encoder_2", "conditioner.embedders.1.model.", text.open_clip),
    ]


def sd3_encoders(source: Source) -> list[Encoder]:
    """Returns the text encoders of Stable Diffusion 3, T5 where the model's folder has it."""
    found = [
        Encoder("text_encoder", "text_encoders.clip_l.transformer.", text.transformers),
        Encoder("text_encoder_2", "text_encoders.clip_g.transformer.", text.transformers),
        Encoder("text_encoder_3", "text_encoders.t5xxl.transformer.", text.t5),
    ]
    return [encoder for encoder in found if (source.model / encoder.folder).is_dir()]


def width(source: Source) -> int:
    """Returns the width of the prompt's states that a UNet attends to."""
    return read(UNet, source.denoiser / CONFIG).text_width


def sd_prediction(source: Source) -> str:
    """Returns epsilon or v, by the scheduler's config."""
    return {"epsilon": "epsilon", "v_prediction": "v"}[read(Schedule, source.model / SCHEDULER).prediction_type]


def sd_architecture(source: Source) -> str:
    """Returns the name of Stable Diffusion 1, or of one of 2's two kinds."""
    if width(source) != SD2_WIDTH:
        return "stable-diffusion-v1"
    return "stable-diffusion-v2-768-v" if sd_prediction(source) == "v" else "stable-diffusion-v2-512"


def sd3_architecture(source: Source) -> str:
    """Returns the name of Stable Diffusion 3 or of one of 3.5's two sizes."""
    config = read_json(source.denoiser / CONFIG)
    if config.get("dual_attention_layers"):
        return "stable-diffusion-v3.5-medium"
    return "stable-diffusion-v3.5-large" if config["num_layers"] == 38 else "stable-diffusion-v3-medium"


def sd_known(source: Source) -> bool:
    """Tells whether the UNet has the size of Stable Diffusion 1's or 2's."""
    unet_config = read(UNet, source.denoiser / CONFIG)
    return unet_config.block_out_channels == [320, 640, 1280, 1280] and unet_config.text_width in (768, SD2_WIDTH)


def sdxl_known(source: Source) -> bool:
    """Tells whether the UNet has the size of Stable Diffusion XL's."""
    unet_config = read(UNet, source.denoiser / CONFIG)
    return unet_config.block_out_channels == [320, 640, 1280] and unet_config.text_width == 2048


def sd3_known(source: Source) -> bool:
    """Tells whether the transformer has the size of Stable Diffusion 3's or 3.5's."""
    config = read_json(source.denoiser / CONFIG)
    return config["num_layers"] in (24, 38) and config["attention_head_dim"] == 64


ORIGINALS = {
    "sd15": Original(
        denoiser=unet.names,
        encoders=sd_encoders,
        architecture=sd_architecture,
        prediction=sd_prediction,
        renamed=False,
        version="sd_v1",
        known=sd_known,
    ),
    "sdxl": Original(
        denoiser=unet.names,
        encoders=sdxl_encoders,
        architecture=lambda _: "stable-diffusion-xl-v1-base",
        prediction=sd_prediction,
        renamed=True,
        version="sdxl_base_v1-0",
        known=sdxl_known,
    ),
    "sd3": Original(
        denoiser=mmdit.names,
        encoders=sd3_encoders,
        architecture=sd3_architecture,
        prediction=lambda _: "flow",
        renamed=True,
        version="sd3",
        known=sd3_known,
    ),
}


def find(family: str) -> Original:
    """Returns a family's original layout; UserError where it has none."""
    if family not in ORIGINALS:
        raise UserError(
            f"export: expected a family with a layout that UIs load, one of {', '.join(ORIGINALS)}, got {family!r}. "
            "Export a pipeline instead: --to pipeline"
        )
    return ORIGINALS[family]
