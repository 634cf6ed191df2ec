"""Where the weights of a policy's `init` lie: in a folder with a denoiser, or in a LoRA file on the base model's."""

from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.models import family as families

LORA = "pytorch_lora_weights.safetensors"
"""diffusers' name of a LoRA file in a folder."""


def lora(family: str, init: Path | str) -> Path | None:
    """Returns the LoRA file that an init names; None where it is a folder with a denoiser, or nothing."""
    path = Path(init)
    if path.suffix == ".safetensors":
        return path
    file = path / LORA
    return file if file.is_file() and not families.denoiser_folder(family, path).is_dir() else None


def denoiser(key: str, family: str, base: str, init: str) -> Path:
    """Returns the folder of the denoiser that an init builds on: its own, or with a LoRA that of the model `base`.

    Raises UserError, naming the param `key`, where there is none.
    """
    file = lora(family, init)
    if file is None:
        return families.denoiser_weights(key, family, init)
    if not file.is_file():
        raise UserError(f"{key}: expected a LoRA file at {file}, found none")
    return families.denoiser_weights("model.path", family, base)
