"""A policy that begins from a LoRA: files of several programs, in stock diffusers' arithmetic, and what comes out."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models import inits, lora_files, policies, single_files
from diffalign.models.agreement import check_init
from diffalign.models.init_files import LORA
from diffalign.models.layouts import modelspec
from stages import ingest, precompute, train
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

FAMILIES: dict[str, tuple[Callable[[Path], Path], Any]] = {
    "sd15": (make_model, StableDiffusionPipeline),
    "sdxl": (make_sdxl, StableDiffusionXLPipeline),
    "sd3": (make_sd3, StableDiffusion3Pipeline),
}


def weights_of(denoiser: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in denoiser.state_dict().items()}


def make_lora(folder: Path, family: str, alpha: int = 3, targets: tuple[str, ...] = ()) -> Path:
    """A policy's LoRA of rank 2, none of it 0, as it's saved: PEFT's names, alpha in the metadata."""
    model = families.load(family, folder / "model", ("denoiser",))
    policies.add_lora(model.denoiser, targets or model.lora_targets, rank=2, alpha=alpha, seed=0)
    for name, value in model.denoiser.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    (folder / "lora").mkdir(exist_ok=True)
    policies.save_denoiser(model, "lora", folder / "lora")
    return folder / "lora" / LORA


def as_kohya(file: Path, folder: str, name: Callable[[str], str], alpha: float) -> Path:
    """The same LoRA in kohya's form: underscores, lora_down, lora_up and an alpha for each module."""
    tensors = {}
    for key, value in lora_files.contents(file, folder)[0].items():
        stem, _, rest = key.removeprefix(f"{folder}.").partition(".lora_")
        flat = f"lora_unet_{name(stem).replace('.', '_')}"
        tensors[f"{flat}.lora_{'down' if rest.startswith('A') else 'up'}.weight"] = value
        tensors[f"{flat}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file.with_name("kohya.safetensors"))
    return file.with_name("kohya.safetensors")


def merged(family: str, folder: Path, file: Path) -> dict[str, Tensor]:
    """The denoiser's weights as this project starts from a LoRA."""
    model = families.load(family, folder / "model", ())
    inits.load_denoiser(model, family, folder / "model", file)
    return weights_of(model.denoiser)


def stock(family: str, folder: Path, file: Path) -> dict[str, Tensor]:
    """The denoiser's weights as the stock pipeline loads and fuses the file."""
    absent = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    pipeline = FAMILIES[family][1].from_pretrained(folder / "model", **absent)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return weights_of(getattr(pipeline, families.find(family).denoiser_folder))


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_it_starts_where_the_stock_pipeline_would_be(tmp_path: Path) -> None:
    """alpha 3, rank 2, of both streams of SD3; every module with LoRA changed, none else."""
    make_sd3(tmp_path / "model")
    file = make_lora(tmp_path, "sd3")
    found = merged("sd3", tmp_path, file)
    assert_equal(found, stock("sd3", tmp_path, file))
    base = weights_of(families.load("sd3", tmp_path / "model", ("denoiser",)).denoiser)
    carriers = {f"{name}.weight" for name in inits.factors("sd3", str(tmp_path / "model"), str(file))}
    assert {name for name, value in found.items() if not value.equal(base[name])} == carriers


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_kohyas_file(family: str, tmp_path: Path) -> None:
    """The scripts name SD1.5's modules as diffusers does, XL's as the original layout; convolutions count, too."""
    FAMILIES[family][0](tmp_path / "model")
    targets = ("to_q", "to_out.0", "conv1", "ff.net.0.proj")
    plain = make_lora(tmp_path, family, alpha=3, targets=targets)
    model = families.load(family, tmp_path / "model", (), "meta")
    model.load_denoiser(tmp_path / "model")
    places = lora_files.layout(model, tmp_path / "model/unet")
    file = as_kohya(plain, "unet", (lambda n: places(n).name) if family == "sdxl" else lambda n: n, 3.0)
    found = merged(family, tmp_path, file)
    assert_equal(found, stock(family, tmp_path, file))
    assert_equal(found, merged(family, tmp_path, plain))


def test_kohyas_file_of_sd3_has_query_key_and_value_in_one(tmp_path: Path) -> None:
    """Rows 0 to d of `attn.qkv` are to_q's, and so on; context_block's are add_q_proj's."""
    make_sd3(tmp_path / "model")
    up, down = torch.randn(3 * 32, 2), torch.randn(2, 32)
    stem = "lora_unet_joint_blocks_0_context_block_attn_qkv"
    save_file({f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}, tmp_path / "a.safetensors")
    found = inits.factors("sd3", str(tmp_path / "model"), str(tmp_path / "a.safetensors"))
    rows = [found.pop(f"transformer_blocks.0.attn.add_{part}_proj").change for part in "qkv"]
    torch.testing.assert_close(torch.cat(rows), up @ down)
    assert not found


def test_names_of_older_scripts_and_of_patterns(tmp_path: Path) -> None:
    """alpha 6 of rank 2 by a pattern for one module, 2 for the others; diffusers' processors; rsLoRA by sqrt(2)."""
    make_model(tmp_path / "model")
    module = "mid_block.attentions.0.transformer_blocks.0.attn1"
    up, down = torch.ones(32, 2), torch.ones(2, 32)
    old = {f"unet.{module}.processor.to_q_lora.{part}.weight": t + 0 for part, t in (("up", up), ("down", down))}
    new = {f"unet.{module}.to_out.0.lora_{part}.weight": t for part, t in (("B", up), ("A", down))}
    pattern = {"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": {"attn1.to_out.0": 6}}
    values = {}
    for name, settings in (("plain", pattern), ("rs", pattern | {"unet.use_rslora": True})):
        file = tmp_path / f"{name}.safetensors"
        save_file(old | new, file, {lora_files.ADAPTER: json.dumps(settings)})
        found = inits.factors("sd15", str(tmp_path / "model"), str(file))
        values[name] = [round(float(found[f"{module}.{leaf}"].change[0, 0]), 3) for leaf in ("to_q", "to_out.0")]
    assert values == {"plain": [2.0, 6.0], "rs": [2.828, 8.485]}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_middle.lora_up.weight"], r"found 1 of 3 tensors .* lora_unet_middle\.lora_up\.weight\. Is it of"),
        (["lora_te_text_model_q_proj.alpha"], r"1 of them are a text encoder's"),
        ([f"x{i}.lora_A.weight" for i in range(9)], r"found 9 of 11 .*: x0.*, x1.*, x2.*, x3\.lora_A\.weight, \.\.\."),
        (["unet.conv_in.lora_A.weight"], r"unet\.conv_in: expected both factors of a LoRA, found down only"),
        (["unet.conv_out.lora_A.weight", "unet.conv_out.lora_B.weight"], r"conv_out: expected factors of a weight \["),
        (["unet.conv_in.dora_scale"], r"belong to none of its modules: unet\.conv_in\.dora_scale"),
    ],
)
def test_what_maps_to_nothing_is_refused(names: list[str], message: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    good = {f"unet.conv_in.lora_{a}.weight": torch.ones(s) for a, s in (("A", (1, 4, 3, 3)), ("B", (16, 1, 1, 1)))}
    if any("conv_in" in name and "dora" not in name for name in names):
        good = {}
    save_file({**good, **{name: torch.ones(2, 2) for name in names}}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=message):
        inits.factors("sd15", str(tmp_path / "model"), str(tmp_path / "bad.safetensors"))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    base, file = str(tmp_path / "model"), tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"policies\.dpo\.init: expected a LoRA file at .*x\.safetensors, found none"):
        check_init("policies.dpo.init", "sd15", base, str(file))
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="can't be read as a LoRA"):
        inits.factors("sd15", base, str(file))
    save_file({"a": torch.tensor(float("nan"))}, file)
    with pytest.raises(UserError, match="tensor a: expected finite numbers"):
        inits.factors("sd15", base, str(file))


def test_policies_begin_at_it_and_carry_it_in_what_they_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loss ln 2 at step 0 with the LoRA as reference, too; each policy's file holds the LoRA and what was trained."""
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path)
    file = make_lora(tmp_path, "sd15").relative_to(tmp_path)
    trained = {"method": "dpo", "init": str(file), "steps": 2}
    lora = {"rank": 3, "alpha": 6, "targets": ["to_q", "conv2"]}
    values = make_params(
        tmp_path,
        {"base": {"method": "none", "init": str(file)}, "full": trained, "lora": trained | {"lora": lora, "lr": 0.1}},
        probe={"every": 2, "pairs": 2, "draws": 1},
    )
    ingest.run(values)
    precompute.run(values)
    start = merged("sd15", tmp_path, file)
    found = {}
    for name in values.policies:
        if name == "base":
            train.run(values, name)
        else:
            curve = specs.train_here(values, name, monkeypatch)
            assert curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
        denoiser: Any = policies.load_policy("sd15", "model", Path("models/policies") / name, parts=()).denoiser
        if name != "full":
            denoiser.fuse_lora()
            denoiser.unload_lora()
        found[name] = weights_of(denoiser)
        meta = policies.read_policy(Path("models/policies") / name)
        assert (meta["init"], meta["init_lora"]["path"]) == ("model", str(file))
    assert_equal(found["base"], start)
    change = {name: {n for n, v in found[name].items() if not v.allclose(start[n], atol=1e-6)} for name in found}
    assert change["full"] and {n.split(".")[-2] for n in change["lora"]} == {"to_q", "conv2"}
    assert_equal(stock("sd15", tmp_path, Path("models/policies/lora").resolve() / LORA), found["lora"])
    # A policy is an init, too, as a folder with a LoRA; from another base it isn't.
    assert_equal(merged("sd15", tmp_path, Path("models/policies/lora")), found["lora"])
    make_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"expected the denoiser that .*lora was trained from"):
        inits.fingerprint("policies.again.init", "sd15", "other", "models/policies/lora")
    # And exported: a file of one rank and alpha, as other programs read it.
    policy = single_files.Policy("sd15", Path("model"), Path("models/policies/lora"))
    about = modelspec.About(title="lora", date="2026-01-01T00:00:00Z", resolution=64, license=None)
    single_files.write_kohya(policy, tmp_path / "kohya.safetensors", None, about)
    assert_equal(merged("sd15", tmp_path, tmp_path / "kohya.safetensors"), found["lora"])
