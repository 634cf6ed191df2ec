"""The original layouts, read back by diffusers' own converters, and a LoRA of kohya's names by the rule of ComfyUI."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor

from diffalign.config.params import BaseModelParams
from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models import policies
from diffalign.models.layouts import kohya, original, single_file, text, unet
from diffalign.models.layouts.original import Source
from diffalign.models.layouts.place import Place, checkpoint
from diffalign.models.layouts.vae import VAENames
from diffalign.models.parts.configs.model import CONFIG
from diffalign.models.parts.configs.schema import read_json
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

MAKERS: dict[str, Callable[[Path], Path]] = {"sd15": make_model, "sdxl": make_sdxl, "sd3": make_sd3}


def source(family: str, folder: Path) -> Source:
    """A tiny model of a family."""
    model = MAKERS[family](folder)
    return Source(model, model / families.find(family).denoiser_folder)


def whole(family: str, found: Source, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Its checkpoint."""
    return single_file.tensors(family, found, single_file.part(found.model, found.denoiser.name), dtype)


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_every_family_has_a_layout() -> None:
    assert set(original.ORIGINALS) == set(get_args(BaseModelParams.model_fields["family"].annotation))
    with pytest.raises(UserError, match="one of sd15, sdxl, sd3, got 'other'"):
        original.find("other")


@pytest.mark.parametrize("family", MAKERS)
def test_diffusers_converters_give_the_weights_back(family: str, tmp_path: Path) -> None:
    """Each tensor of each part is in the checkpoint, by the name under which diffusers looks for it, and none else."""
    found = source(family, tmp_path)
    made = whole(family, found)
    folder = found.denoiser.name
    if folder == "unet":
        config = read_json(found.denoiser / CONFIG)
        denoiser = single_file_utils.convert_ldm_unet_checkpoint(dict(made), config)
    else:
        own = {k: v for k, v in made.items() if k.startswith(single_file.DENOISER)}
        denoiser = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(own)
    assert_equal(denoiser, single_file.part(found.model, folder))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(made), read_json(found.model / "vae" / CONFIG))
    assert_equal(vae, single_file.part(found.model, "vae"))
    for encoder in original.find(family).encoders(found):
        own = {k: v for k, v in made.items() if k.startswith(encoder.prefix)}
        expected = {text.whole(k): v for k, v in single_file.part(found.model, encoder.folder).items()}
        assert_equal(encoder_back(own, encoder.prefix, expected), expected)
    prefixes = (single_file.DENOISER, single_file.VAE, *(e.prefix for e in original.find(family).encoders(found)))
    assert all(name.startswith(prefixes) for name in made)


def encoder_back(own: dict[str, Tensor], prefix: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors by diffusers' converter of that layout."""
    if not prefix.endswith(".model."):
        return single_file_utils.convert_ldm_clip_checkpoint(own, remove_prefix=prefix)
    width = expected["text_model.final_layer_norm.weight"].shape[0]
    # The converter takes the encoder's width to be that of its projection, as it is in OpenCLIP's own.
    projection = own.pop(f"{prefix}text_projection", None)

    class Model:
        class config:
            hidden_size = width

    back = single_file_utils.convert_open_clip_checkpoint(Model, own, prefix=prefix)
    if projection is not None:
        back["text_projection.weight"] = projection.T.contiguous()
    return cast("dict[str, Tensor]", back)


def test_stable_diffusion_2_has_an_open_clip(tmp_path: Path) -> None:
    """By the width of the prompt's states, as UIs tell; its scheduler says which of two it is."""
    found = source("sd15", tmp_path)
    layout = original.find("sd15")
    assert (layout.architecture(found), layout.known(found)) == ("stable-diffusion-v1", False)
    config = (found.denoiser / CONFIG).read_text()
    (found.denoiser / CONFIG).write_text(config.replace('"cross_attention_dim": 16', '"cross_attention_dim": 1024'))
    (encoder,) = layout.encoders(found)
    assert (layout.architecture(found), encoder.prefix) == ("stable-diffusion-v2-512", "cond_stage_model.model.")
    scheduler = found.model / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"epsilon"', '"v_prediction"'))
    assert layout.architecture(found) == "stable-diffusion-v2-768-v"


def test_sdxl_of_v_prediction_is_marked(tmp_path: Path) -> None:
    found = source("sdxl", tmp_path)
    assert single_file.V_PREDICTION not in whole("sdxl", found)
    scheduler = found.model / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"epsilon"', '"v_prediction"'))
    assert single_file.V_PREDICTION in whole("sdxl", found)


def test_precision_is_that_of_all_and_what_is_too_large_is_said(tmp_path: Path) -> None:
    found = source("sd15", tmp_path)
    half = whole("sd15", found, torch.float16)
    assert {value.dtype for value in half.values()} == {torch.float16}
    with pytest.raises(UserError, match="w has numbers that are too large for float16: use --dtype bf16"):
        single_file.cast({"w": torch.tensor([7e4])}, torch.float16)
    assert single_file.cast({"ids": torch.arange(3)}, torch.float16)["ids"].dtype == torch.int64


def test_old_names_of_a_published_vae() -> None:
    """Stable Diffusion 1.5's file on the hub has them; its matrices become 1 x 1 convolutions."""
    old = {f"decoder.mid_block.attentions.0.{name}.weight": torch.ones(2, 2) for name in ("query", "proj_attn")}
    made = checkpoint(old, VAENames(4))
    assert {name: tuple(value.shape) for name, value in made.items()} == {
        "decoder.mid.attn_1.q.weight": (2, 2, 1, 1),
        "decoder.mid.attn_1.proj_out.weight": (2, 2, 1, 1),
    }


@pytest.mark.parametrize("name", ["down_blocks.0.motion_modules.0.norm.weight", "mid_block.resnets.0.norm3.weight"])
def test_what_has_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="has no name"):
        unet.UNetNames(2, frozenset())(name)


def test_sd15_numbers_of_blocks_are_the_published_ones() -> None:
    """Of Stable Diffusion 1.5: two resnets a block, no attention in the decoder's first."""
    names = unet.UNetNames(2, frozenset({1, 2, 3}))
    expected = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.resnets.0.conv1.bias": "input_blocks.1.0.in_layers.2.bias",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.1.attentions.1.proj_in.weight": "input_blocks.5.1.proj_in.weight",
        "mid_block.resnets.1.norm1.weight": "middle_block.2.in_layers.0.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight": (
            "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "conv_norm_out.weight": "out.0.weight",
    }
    assert {name: names(name).name for name in expected} == expected


def trained_lora(family: str, found: Source, targets: tuple[str, ...] | None = None) -> Any:
    """The model with LoRA of rank 2 and alpha 3 whose B isn't zero."""
    model = families.load(family, found.model, ("denoiser",))
    policies.add_lora(model.denoiser, targets or model.lora_targets, rank=2, alpha=3, seed=0)
    for name, value in model.denoiser.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def comfy_key(name: str) -> str:
    """ComfyUI's name of a LoRA on the weight `diffusion_model.NAME.weight`: comfy/lora.py, model_lora_keys_unet."""
    return f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"


def comfy_keys(family: str, found: Source, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """LoRA's name to the original layout's weight: by that layout's names, for a UNet by diffusers' names, too."""
    keys = {comfy_key(name): name for name in weights if name.endswith(".weight")}
    if found.denoiser.name == "unet":
        config = read_json(found.denoiser / CONFIG)
        prefixed = {single_file.DENOISER + name: torch.tensor(i) for i, name in enumerate(weights)}
        back = single_file_utils.convert_ldm_unet_checkpoint(prefixed, config)
        order = list(weights)
        keys |= {comfy_key(theirs): order[int(at)] for theirs, at in back.items() if theirs.endswith(".weight")}
    return keys


EVERYWHERE = {
    "sd15": ("to_q", "to_out.0", "proj_in", "conv1", "time_emb_proj"),
    "sdxl": ("to_k", "ff.net.2", "proj_out", "conv2", "downsamplers.0.conv", "upsamplers.0.conv"),
    "sd3": ("to_q", "add_v_proj", "to_out.0", "ff.net.0.proj", "norm1_context.linear", "norm_out.linear"),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("family", MAKERS)
def test_a_merge_of_kohyas_file_gives_our_weights(family: str, wide: bool, tmp_path: Path) -> None:
    """W + alpha / rank * up @ down on the original layout's weights is the checkpoint of the merged policy."""
    found = source(family, tmp_path)
    places = original.find(family).denoiser(found.denoiser / CONFIG)
    model = trained_lora(family, found, EVERYWHERE[family] if wide else None)
    policies.save_lora(model, tmp_path / "lora")
    lora = policies.read_tensors(tmp_path / "lora" / policies.LORA)
    names = places if original.find(family).renamed else None
    file = kohya.convert(lora, model.denoiser_folder, 3 / 2, names)
    base = checkpoint(single_file.part(found.model, found.denoiser.name), places)
    keys = comfy_keys(family, found, base)
    stems = {name.removesuffix(".alpha") for name in file if name.endswith(".alpha")}
    assert stems and stems <= keys.keys() and len(file) == 3 * len(stems)
    merged = dict(base)
    for stem in stems:
        up, down = file[f"{stem}.lora_up.weight"], file[f"{stem}.lora_down.weight"]
        change = file[f"{stem}.alpha"] / down.shape[0] * up.flatten(1) @ down.flatten(1)
        merged[keys[stem]] = base[keys[stem]] + change.reshape(base[keys[stem]].shape)
    model.denoiser.fuse_lora()
    model.denoiser.unload_lora()
    expected = checkpoint(model.denoiser.state_dict(), places)
    assert expected.keys() == merged.keys()
    changed = [name for name in merged if not torch.equal(merged[name], base[name])]
    assert len(changed) == len(stems)
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-6)


def test_thirds_of_other_ranks_join() -> None:
    """By hand: query's change is 1 * [1, 2], value's 2 * [3, 4]; key has none."""
    places = lambda name: Place("qkv", third={"q": 0, "k": 1, "v": 2}[name])  # noqa: E731
    lora = {
        "t.q.lora_A.weight": torch.tensor([[1.0, 2.0]]),
        "t.q.lora_B.weight": torch.tensor([[1.0]]),
        "t.v.lora_A.weight": torch.tensor([[3.0, 4.0]]),
        "t.v.lora_B.weight": torch.tensor([[2.0]]),
    }
    made = kohya.convert(lora, "t", 0.5, places)
    up, down = made["lora_unet_qkv.lora_up.weight"], made["lora_unet_qkv.lora_down.weight"]
    assert made["lora_unet_qkv.alpha"] / 2 == 0.5
    assert (up @ down).tolist() == [[1.0, 2.0], [0.0, 0.0], [6.0, 8.0]]
