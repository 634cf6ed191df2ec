"""Writes a policy as a whole model folder in diffusers' layout, which the stock pipeline loads by itself."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import write_json
from diffalign.core.home import COMMAND
from diffalign.models import family as families
from diffalign.models import policies
from diffalign.models.layouts import single_file, tensor_file
from diffalign.models.parts import weights
from diffalign.models.parts.configs.schema import read_json

INDEX = "model_index.json"
DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
"""As configs name them."""


def write_pipeline(family: str, model: Path, policy: Path, folder: Path) -> None:
    """Writes the base model's parts with a policy's denoiser into an empty folder, with checksums and policy.json.

    LoRA is merged into the denoiser, and lies beside it in `lora/`. Raises UserError if a folder isn't what it should
    be, or the base model's weights have changed since the policy was trained.
    """
    kind, meta = families.find(family), policies.read_policy(policy)
    write_json(folder / INDEX, index(model))
    parts = [name for part in ("vae", "text") for name in kind.folders[part]]
    for name in ("scheduler", *parts):
        if (model / name).is_dir():
            weights.verify(model, f"{name}/")
            shutil.copytree(model / name, folder / name)
    source = policy if meta["adapter"] == "full" else Path(meta["init"])
    if meta["adapter"] == "lora":
        save_merged(family, model, policy, folder)
    else:
        if meta["adapter"] == "none":
            policies.check_init(policy, meta, source / kind.denoiser_folder)
        weights.verify(source, f"{kind.denoiser_folder}/")
        shutil.copytree(source / kind.denoiser_folder, folder / kind.denoiser_folder)
    shutil.copy(policy / "policy.json", folder)
    weights.note(folder)


def index(model: Path) -> dict[str, Any]:
    """Returns a model folder's index, with null for parts that aren't in the folder: the pipeline goes without them."""
    path = model / INDEX
    if not path.is_file():
        raise UserError(
            f"{path} is missing: expected the base model's index, which names its pipeline's parts. Bring the folder "
            f"whole: {COMMAND} fetch, or save_pretrained of diffusers."
        )
    found = records.plain(path, ("_class_name",), f"Bring the base model again: {COMMAND} fetch")
    absent = [name for name, value in found.items() if isinstance(value, list) and not (model / name).is_dir()]
    unchecked = {"requires_safety_checker": False} if "safety_checker" in absent else {}
    return found | {name: [None, None] for name in absent} | unchecked


def save_merged(family: str, model: Path, policy: Path, folder: Path) -> None:
    """Writes a policy's denoiser with its LoRA merged into the weights, and the LoRA by itself in `lora/`."""
    name = families.find(family).denoiser_folder
    merged(family, model, policy).save_pretrained(folder / name, safe_serialization=True)
    (folder / "lora").mkdir()
    shutil.copy(policy / policies.LORA, folder / "lora")


def merged(family: str, model: Path, policy: Path) -> Any:
    """Returns a policy's denoiser with its LoRA merged into the weights, float32."""
    denoiser = cast(Any, policies.load_policy(family, model, policy, parts=()).denoiser)
    denoiser.fuse_lora()
    denoiser.unload_lora()
    return denoiser


def cast_folder(folder: Path, dtype: torch.dtype) -> None:
    """Rewrites a model folder's weights in another precision, the checksums, too; integers stay."""
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        tensor_file.write(file, single_file.cast(policies.read_tensors(file), dtype), metadata)
    for config in sorted(folder.glob("text_encoder*/config.json")):
        found = read_json(config)
        write_json(config, found | {key: DTYPES[dtype] for key in ("dtype", "torch_dtype") if key in found})
    weights.note(folder)
