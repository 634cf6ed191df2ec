"""Vectors for raters, on every family: nobody is the model as it was, to the bit; each rater has a vector."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models import family as families
from diffalign.models import policies, rater_tokens
from diffalign.models.policies import add_lora
from diffalign.models.rater_tokens import NOBODY, RaterTokens
from tests.helpers.tiny import make_model
from tests.helpers.tiny_families import make_sd3, make_sdxl

CASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "sd15": ("sd15", make_model),
    "sdxl": ("sdxl", make_sdxl),
    "sd3": ("sd3", make_sd3),
    "sd3_t5": ("sd3", lambda folder: make_sd3(folder, t5=True)),
}
IDS = ("100", "201", "302")


@pytest.fixture(scope="module", params=["sd15", *(pytest.param(n, marks=pytest.mark.slow) for n in list(CASES)[1:])])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    family, make = CASES[request.param]
    return families.load(family, make(tmp_path_factory.mktemp("model")), ("vae", "text", "denoiser"))


def inputs(model: families.Family, *raters: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Noise and the conditions of a picture a rater each; without `raters` of two."""
    count = len(raters) or 2
    cond = model.encode_prompt(["a cat"] * count)
    image = model.image_cond((64, 64), (0, 0), (64, 64))
    cond |= {name: value[None].repeat(count, *[1] * value.dim()) for name, value in image.items()}
    cond |= {"raters": torch.tensor(raters)} if raters else {}
    channels = 16 if "joint_attention_dim" in model.denoiser.config else 4
    x_t = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(count, 1, 1, 1)
    return x_t, torch.full((count,), 0.5 if channels == 16 else 500), cond


def test_nobody_and_zeros_change_no_bit_and_each_rater_has_its_vector(model: families.Family) -> None:
    """Nobody beside raters in one batch, too; a rater's gradient reaches no other row."""
    with torch.no_grad():
        before = model.denoise(*inputs(model))
    tokens = rater_tokens.start(model, IDS, Path("nowhere"))
    rater_tokens.attach(model.denoiser, tokens)
    try:
        told = inputs(model, NOBODY, 1)
        assert torch.equal(model.denoise(*told), before), "vectors of zeros"
        assert torch.equal(model.denoise(*inputs(model)), before), "a condition that says nothing of raters"
        with torch.no_grad():
            tokens.vectors.copy_(torch.randn(tokens.vectors.shape, generator=torch.Generator().manual_seed(1)))
        found = model.denoise(*told)
        assert torch.equal(found[0], before[0]) and (found[1] - before[1]).abs().max() > 1e-4
        assert torch.equal(rater_tokens.without(model.denoise)(*told), before)
        found.square().sum().backward()
        assert tokens.vectors.grad is not None
        assert [bool(row.any()) for row in tokens.vectors.grad] == [False, True, False]
    finally:
        model.denoiser._forward_pre_hooks.clear()
        rater_tokens.detach(model.denoiser)
        model.denoiser.zero_grad()


def test_a_published_folder_is_nobodys_in_stock_diffusers(tmp_path: Path) -> None:
    """And ours draws for a rater, in both halves of guidance."""
    folder = make_model(tmp_path / "model")
    model = families.load("sd15", folder, ("denoiser",))
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    vectors = torch.randn(len(IDS), rater_tokens.width(model))
    rater_tokens.attach(model.denoiser, RaterTokens(IDS, vectors))
    assert rater_tokens.WEIGHT in dict(model.denoiser.named_parameters())
    out = tmp_path / "policy"
    rater_tokens.save(rater_tokens.detach(model.denoiser), out_folder(out))
    policies.save_denoiser(model, "full", out)
    stock = diffusers.UNet2DConditionModel.from_pretrained(out / "unet")
    assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())
    (out / "policy.json").write_text('{"schema": 1, "adapter": "full", "init": "x"}')
    ours = policies.load_policy("sd15", folder, out, parts=("text",))
    assert torch.equal(rater_tokens.of(ours.denoiser).vectors, vectors) and rater_tokens.of(ours.denoiser).ids == IDS
    assert rater_tokens.drawing_for("201", ours, "dpo") is ours
    assert ours.encode_prompt(["a", "b"])["raters"].tolist() == [1, 1]
    assert ours.unconditional()["raters"].tolist() == [1]
    with pytest.raises(UserError, match=r"generate.overrides.dpo.rater: .* a vector of, 100, 201, 302, got '9'"):
        rater_tokens.drawing_for("9", ours, "dpo")


def out_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_model_without_vectors_says_so(tmp_path: Path) -> None:
    model = families.load("sd15", make_model(tmp_path), ("denoiser",))
    with pytest.raises(UserError, match="none: train it with rater_tokens, got '100'"):
        rater_tokens.drawing_for("100", model, "dpo")


def test_new_raters_begin_at_zeros_beside_those_of_the_init(tmp_path: Path) -> None:
    model = families.load("sd15", make_model(tmp_path / "model"), ("denoiser",))
    add_lora(model.denoiser, ["to_q"], 4, 4, 0)
    known = torch.randn(2, rater_tokens.width(model))
    rater_tokens.save(RaterTokens(("201", "100"), known), tmp_path)
    assert rater_tokens.rows(tmp_path, ["100", "302"]) == ("201", "100", "302")
    found = rater_tokens.start(model, ("201", "100", "302"), tmp_path)
    assert torch.equal(found.vectors[:2], known) and not found.vectors[2].any()


def test_damaged_vectors_are_named(tmp_path: Path) -> None:
    (tmp_path / rater_tokens.FILE).write_bytes(b"\x08" + bytes(40))
    with pytest.raises(UserError, match=r"rater_tokens.safetensors can't be read"):
        rater_tokens.read(tmp_path)
    rater_tokens.save(RaterTokens(IDS, torch.full((3, 4), float("nan"))), tmp_path)
    with pytest.raises(UserError, match="NaN"):
        rater_tokens.read(tmp_path)
