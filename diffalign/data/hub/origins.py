"""Where a model's or a data set's folder comes from: its repository on the hub and its licence, as far as is known."""

from dataclasses import dataclass
from pathlib import Path

from diffalign.data.hub.pinned import PINNED

DEMO = Path("assets/tiny-sd")
"""The demo's model, which this project made."""
PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}
"""The stock pipeline of each family, as its module in `models/` names it, known without PyTorch."""


@dataclass(frozen=True)
class License:
    """A licence by the hub's name for it; `other` has a name and a link of its own."""

    id: str
    name: str | None = None
    link: str | None = None


LICENSES = {
    "sd15": License("creativeml-openrail-m"),
    "sdxl": License("openrail++"),
    "sd3": License(
        "other",
        "stabilityai-ai-community",
        "https://huggingface.co/stabilityai/stable-diffusion-3-medium-diffusers/blob/main/LICENSE.md",
    ),
}
"""Of the models that fetch brings, by their names in `PINNED`; data sets of Pick-a-Pic state none."""


@dataclass(frozen=True)
class Origin:
    """A folder's origin; None is unknown."""

    repo: str | None = None
    license: License | None = None


def of(folder: str | Path) -> Origin:
    """Returns the origin of a folder that fetch fills, or of the demo's model."""
    if Path(folder) == DEMO:
        return Origin(license=License("apache-2.0"))
    for name, pinned in PINNED.items():
        if pinned.folder == Path(folder):
            return Origin(pinned.repo, LICENSES.get(name))
    return Origin()
