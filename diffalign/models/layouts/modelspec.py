"""The metadata of a file for UIs: Stability AI's ModelSpec, what kohya's scripts add to a LoRA, and our own words.

https://github.com/Stability-AI/ModelSpec; kohya's in sd-scripts, library/sai_model_spec.py and train_network.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffalign.models.layouts.original import Original, Source
from diffalign.models.layouts.tensor_file import HASH

VERSION = "1.0.0"
STABILITY = "https://github.com/Stability-AI/generative-models"
DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class About:
    """A file's description; None and what is empty isn't written."""

    title: str
    date: str
    """ISO 8601."""
    resolution: int
    """Pixels a side."""
    description: str = ""
    license: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)
    """Written as `diffalign.KEY`."""


def checkpoint(layout: Original, source: Source, about: About) -> dict[str, str]:
    """Returns the metadata of a whole model."""
    return spec(layout, source, about) | {
        "modelspec.architecture": layout.architecture(source),
        "modelspec.implementation": STABILITY,
    }


def lora(layout: Original, source: Source, about: About, rank: int, alpha: float) -> dict[str, str]:
    """Returns the metadata of a LoRA of kohya's names."""
    architecture = layout.architecture(source)
    second = architecture.startswith("stable-diffusion-v2")
    return spec(layout, source, about) | {
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": STABILITY if layout.renamed else DIFFUSERS,
        "ss_base_model_version": "sd_v2" if second else layout.version,
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_dim": str(rank),
        "ss_network_module": "networks.lora_sd3" if layout.version == "sd3" else "networks.lora",
        "ss_output_name": about.title,
        "ss_v2": str(second),
    }


def spec(layout: Original, source: Source, about: About) -> dict[str, str]:
    """Returns the metadata that a whole model and a LoRA share."""
    found = {
        "format": "pt",
        "modelspec.sai_model_spec": VERSION,
        "modelspec.title": about.title,
        "modelspec.date": about.date,
        "modelspec.resolution": f"{about.resolution}x{about.resolution}",
        "modelspec.prediction_type": layout.prediction(source),
        "modelspec.description": about.description,
        "modelspec.license": about.license or "",
        HASH: "",
    }
    kept = {key: value for key, value in found.items() if value or key == HASH}
    return kept | {f"diffalign.{key}": value for key, value in about.own.items()}
