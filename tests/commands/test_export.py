"""`export` of tiny policies: what lies there, what other programs read from it, and what is refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from diffalign.commands import export
from diffalign.commands.export import Wanted
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.models import policies
from diffalign.models.layouts import single_file
from diffalign.models.layouts.tensor_file import HASH
from tests.helpers.project import make_params
from tests.helpers.tiny import make_model
from tests.models.test_export import make_policy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project with a policy of each adapter, by whose name it is called."""
    folder = tmp_path_factory.mktemp("export")
    make_model(folder / "model")
    trained = {name: {"method": "sft"} for name in ("full", "lora")}
    values = make_params(folder, {"none": {"method": "none"}, **trained}, evaluate={"baseline": "none"})
    (folder / "models").mkdir()
    (folder / "models/policies").symlink_to(folder / "policies")
    for adapter in values.policies:
        make_policy(folder, adapter)
    return folder, values


@pytest.fixture
def params(made: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(made[0])
    return made[1]


def modes(folder: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*"))}


def test_a_checkpoint_is_read_by_the_stock_pipeline(params: Params) -> None:
    """Of the merged LoRA: the stock loader's pipeline has the weights of the pipeline that is exported as a folder."""
    told = export.run(params, Wanted("lora", "single-file", None), None)
    file = Path("exports/lora/single-file/lora.safetensors")
    assert told.startswith(f"lora as single-file: {file}, ") and "models/checkpoints" in told and "push" in told
    assert "so none will load it" in told, "the tiny model is of no size that UIs know"
    export.run(params, Wanted("lora", "pipeline", None), None)
    expected = StableDiffusionPipeline.from_pretrained("exports/lora/pipeline")
    stock = StableDiffusionPipeline.from_single_file(
        str(file), config="model", local_files_only=True, safety_checker=None, dtype=torch.float32
    )
    for part in ("unet", "vae", "text_encoder"):
        weights = getattr(expected, part).state_dict()
        found = getattr(stock, part).state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights), part
    assert modes(Path("exports")) == {"0o644", "0o755"}


def test_kohyas_file_says_what_it_is_and_stock_diffusers_merges_it(params: Params) -> None:
    export.run(params, Wanted("lora", "kohya", None), None)
    file = Path("exports/lora/kohya/lora.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "4")
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert metadata[HASH] == f"0x{hashlib.sha256(data[start:]).hexdigest()}"
    assert list(json.loads(data[8:start])["__metadata__"]) == sorted(metadata)
    stock = StableDiffusionPipeline.from_pretrained("model")
    stock.load_lora_weights(str(file.parent), weight_name=file.name)
    stock.fuse_lora()
    stock.unload_lora_weights()
    ours = policies.load_policy("sd15", "model", Path("models/policies/lora"), parts=()).denoiser
    ours.fuse_lora()
    ours.unload_lora()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(stock.unet.state_dict()[name], value, rtol=0, atol=1e-6)


def test_precision_and_a_file_of_ones_own(params: Params, tmp_path: Path) -> None:
    """One file at a path: nothing beside it is touched, and it has ordinary modes under a strict umask, too."""
    before = os.umask(0o027)
    try:
        (tmp_path / "other.safetensors").write_text("mine")
        file = tmp_path / "mine.safetensors"
        told = export.run(params, Wanted("lora", "lora", "fp16"), file)
        assert f'weight_name="{file.name}"' in told
        assert {value.dtype for value in policies.read_tensors(file).values()} == {torch.float16}
        assert oct(file.stat().st_mode & 0o777) == "0o640"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "other.safetensors"]
    finally:
        os.umask(before)
    export.run(params, Wanted("full", "pipeline", "bf16"), tmp_path / "half")
    for part in ("unet", "vae", "text_encoder"):
        tensors = single_file.part(tmp_path / "half", part)  # with the checksums of the new files
        assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half/text_encoder/config.json").read_text())["dtype"] == "bfloat16"
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "half", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_equal_exports_have_equal_bytes(params: Params, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export.run(params, Wanted("full", "single-file", None), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_what_cannot_be_exported_says_what_to_do(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full: it was trained with all its weights. Export it whole"):
        export.run(params, Wanted("full", "kohya", None), None)
    with pytest.raises(UserError, match="none: it isn't trained"):
        export.run(params, Wanted("none", "lora", None), None)
    with pytest.raises(UserError, match="--to: expected one of pipeline, single-file, lora, kohya, got 'gguf'"):
        export.run(params, Wanted("full", "gguf", None), None)
    with pytest.raises(UserError, match="one of the policies none, full, lora, got 'dpo'"):
        export.run(params, Wanted("dpo", "lora", None), None)
    with pytest.raises(UserError, match="a pipeline is a folder"):
        export.run(params, Wanted("full", "pipeline", None), tmp_path / "a.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("only copy")
    with pytest.raises(UserError, match="holds something that no export made"):
        export.run(params, Wanted("full", "pipeline", None), tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "only copy"
    with pytest.raises(UserError, match="isn't trained yet"):
        os.rename("models/policies/none", "models/policies/gone")
        try:
            export.run(params, Wanted("none", "pipeline", None), tmp_path / "none")
        finally:
            os.rename("models/policies/gone", "models/policies/none")
