"""Damaged weights are named before anything is computed with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models.parts import weights
from diffalign.models.policies import add_lora, load_policy, read_policy, save_denoiser
from tests.helpers.tiny import make_model

UNET = "unet/diffusion_pytorch_model.safetensors"


def flip_bit(path: Path) -> None:
    """Flips the lowest bit of the file's last byte but one: a finite weight becomes another."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))


def make_policy(tmp_path: Path, adapter: str) -> Path:
    """A published policy beside its init, `tmp_path / "m"`."""
    model = families.load("sd15", make_model(tmp_path / "m"), ("denoiser",))
    if adapter == "lora":
        add_lora(model.denoiser, model.lora_targets, 2, 2, seed=0)
    folder = tmp_path / "policy"
    folder.mkdir()
    if adapter != "none":
        save_denoiser(model, adapter, folder)
    init = weights.folder_digest(tmp_path / "m" / "unet")
    meta = {"adapter": adapter, "init": str(tmp_path / "m"), "init_fingerprint": init}
    (folder / "policy.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(("adapter", "file"), [("full", UNET), ("lora", "pytorch_lora_weights.safetensors")])
def test_a_flipped_bit_in_a_policy(adapter: str, file: str, tmp_path: Path) -> None:
    folder = make_policy(tmp_path, adapter)
    load_policy("sd15", tmp_path / "m", folder, parts=())
    flip_bit(folder / file)
    with pytest.raises(UserError, match=rf"{file}: expected the file that .*checksums\.json describes"):
        load_policy("sd15", tmp_path / "m", folder, parts=())


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_flipped_bit_in_the_model_a_policy_builds_on(adapter: str, tmp_path: Path) -> None:
    """Even where nobody noted the model's own checksums: training noted its denoiser's."""
    folder = make_policy(tmp_path, adapter)
    load_policy("sd15", tmp_path / "m", folder, parts=())
    flip_bit(tmp_path / "m" / UNET)
    with pytest.raises(UserError, match=r"m/unet: expected the denoiser that .*policy was trained from"):
        load_policy("sd15", tmp_path / "m", folder, parts=())


@pytest.mark.parametrize("part", ["vae", "text_encoder", "unet"])
def test_a_flipped_bit_in_a_model_with_checksums(part: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    weights.note(folder)
    families.load("sd15", folder)
    (file,) = (folder / part).glob("*.safetensors")
    flip_bit(file)
    with pytest.raises(UserError, match=rf"{file.name}: expected the file that"):
        families.load("sd15", folder)


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = weights.digest(tmp_path / "a", "sha256")
    monkeypatch.setattr(weights, "sha256_file", None)
    assert weights.digest(tmp_path / "a", "sha256") == first


def test_checksums_that_arent_checksums(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / weights.CHECKSUMS).write_text('{"schema": 1, "files": {"unet/config.json": "md5:0"}}')
    with pytest.raises(UserError, match=r"checksums\.json .*files\.unet/config\.json"):
        families.load("sd15", folder)


@pytest.mark.parametrize(
    ("part", "value"), [("vae", float("nan")), ("text_encoder", float("inf")), ("unet", float("-inf"))]
)
def test_numbers_that_arent_finite(part: str, value: float, tmp_path: Path) -> None:
    (file,) = (make_model(tmp_path / "m") / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{file.name}: tensor .*{name.removeprefix('text_model.')}.* 1 of "):
        families.load("sd15", tmp_path / "m")


def test_a_lora_that_isnt_finite(tmp_path: Path) -> None:
    folder = make_policy(tmp_path, "lora")
    file = folder / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, file)
    weights.note(folder)
    with pytest.raises(UserError, match=rf"pytorch_lora_weights\.safetensors: tensor {name}"):
        load_policy("sd15", tmp_path / "m", folder, parts=())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"adapter": "x"}, r"adapter: input should be 'none', 'full' or 'lora', found 'x'"),
        ({"init": None}, "init: input should be a valid string, found null"),
        ({"init_fingerprint": 3}, "init_fingerprint"),
    ],
)
def test_a_policy_json_of_another_kind(change: dict[str, object], told: str, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps({"adapter": "none", "init": "m", "beta": 3} | change))
    with pytest.raises(UserError, match=rf"policy\.json isn't as stage train@.*{told}"):
        read_policy(tmp_path)


def test_metadata_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    """safetensors' own order changes from one save to the next within a process."""
    found = set()
    for i in range(12):
        file = tmp_path / f"{i}.safetensors"
        save_file({"a": torch.ones(3), "b": torch.zeros(2)}, file, metadata={key: key for key in "fedcba"})
        weights.sort_metadata(file)
        assert torch.equal(load_file(file)["a"], torch.ones(3))
        found.add(file.read_bytes())
    assert len(found) == 1
