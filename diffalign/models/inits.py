"""What a policy starts from, its `init`: a model's folder, a full policy's, or a LoRA on the base model's denoiser.

A LoRA is a .safetensors file of diffusers, PEFT or kohya's scripts, or a folder with `pytorch_lora_weights.safetensors`
in it, as a policy's. It is merged into the denoiser of `model.path` when that is loaded; policy and reference are both
the sum at the first step.
"""

from pathlib import Path
from typing import Any

from diffalign.core.files import canonical_json, hash_folder, sha256_bytes, sha256_file, write_json
from diffalign.core.publishing import replacing
from diffalign.models import family as families
from diffalign.models import init_files, lora_files, policies, rater_tokens
from diffalign.models.lora_files import Factors


def fingerprint(key: str, family: str, base: str, init: str) -> str:
    """Returns a checksum of the weights that an init gives; UserError, naming the param `key`, where there are none.

    A policy's LoRA must have been trained from the denoiser of the model `base`.
    """
    denoiser, file = init_files.denoiser(key, family, base, init), init_files.lora(family, init)
    if file and (Path(init) / "policy.json").is_file():
        policies.check_init(Path(init), policies.read_policy(Path(init)), denoiser)
    found = hash_folder(denoiser)
    return found if file is None else sha256_bytes(canonical_json([found, sha256_file(file)]).encode())


def load_denoiser(model: families.Family, family: str, base: Path | str, init: Path | str) -> None:
    """Gives a model the denoiser of an init; `base` is the folder of the model that a LoRA is merged into."""
    file = init_files.lora(family, init)
    if file is None:
        model.load_denoiser(Path(init))
        return
    model.load_denoiser(Path(base))
    lora_files.merge(model, lora_files.read(file, model, families.denoiser_folder(family, base)))


def factors(family: str, base: str, init: str) -> dict[str, Factors]:
    """Returns the changes of modules that an init makes to the model `base`: a LoRA's, else none. Loads no denoiser."""
    file = init_files.lora(family, init)
    if file is None:
        return {}
    shapes = families.load(family, base, (), "meta")
    shapes.load_denoiser(Path(base))
    return lora_files.read(file, shapes, families.denoiser_folder(family, base))


def publish(name: str, settings: dict[str, Any], family: str, base: str, folder: Path) -> None:
    """Publishes a policy without training whose init is a LoRA: as a LoRA policy of the model `base`."""
    init = settings["init"]
    shapes = families.load(family, base, (), "meta")
    shapes.load_denoiser(Path(base))
    with replacing(folder) as new:
        rater_tokens.copy(Path(init), new)
        policies.save_denoiser(shapes, "lora", new, factors(family, base, init))
        told = {"schema": 1, "name": name, "adapter": "lora", "steps": 0}
        write_json(new / "policy.json", settings | told | about(family, base, init))


def about(family: str, base: str, init: str) -> dict[str, Any]:
    """Returns what policy.json says of an init that is a LoRA: the model that the policy's weights build on, the file.

    Nothing where it is a folder, whose name and checksum the policy's settings have.
    """
    file = init_files.lora(family, init)
    if file is None:
        return {}
    digest = hash_folder(families.denoiser_folder(family, base))
    return {"init": base, "init_fingerprint": digest, "init_lora": {"path": str(file), "sha256": sha256_file(file)}}
