"""ImageReward scores as its authors' network does; its checkpoint's keys are all known at the published size."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import blip, clip, tensors
from diffalign.rewards.parts.pixels import normalised, openai_square, unit
from tests.helpers import open_blip, tiny_rewards

PROMPTS = ["a red cat", "", "this is a prompt of more than thirty five letters to read"]
PUBLISHED = {tower: dict(values) for tower, values in blip.SIZES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        tiny_rewards.shrink(patch)
        yield tiny_rewards.make("imagereward", tmp_path_factory.mktemp("imagereward"))


def load(folder: Path, batch_size: int = 2) -> rewards.Reward:
    return rewards.load("imagereward", {"path": str(folder), "batch_size": batch_size, "sha256": None}, "cpu")


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 40, 33, generator=torch.Generator().manual_seed(0)) * 2 - 1


def expected(pixels: Tensor, prompts: list[str]) -> Tensor:
    """The score by the authors' computation, in float64."""
    state = {k: v.double() if v.is_floating_point() else v for k, v in open_blip.random_state(1).items()}
    return open_blip.scores(state, normalised(openai_square(unit(pixels), 28)).double(), prompts)


def test_scores_are_those_of_the_original_network(folder: Path) -> None:
    """Prompts are a short one, an empty one and one that is cut; all at once, two at a time, one by one."""
    pixels = pictures(3)
    wanted = expected(pixels, PROMPTS)
    for batch_size in (8, 2, 1):
        found = load(folder, batch_size)(pixels, PROMPTS)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
    swapped = expected(pixels[[1, 0, 2]], PROMPTS)
    assert wanted.std() > 1e-2 and (wanted - swapped)[:2].abs().min() > 1e-3, "image and prompt both count"


def test_the_keys_of_the_published_size_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: no tensor missing, none besides; two projections and the places' numbers are left out.

    The image tower has 24 x 12 and 6 tensors, the text tower 12 x 26 and 4, the head 10.
    """
    for tower, sizes in PUBLISHED.items():
        monkeypatch.setitem(blip.SIZES, tower, sizes)
    with torch.device("meta"):
        state = {name: torch.empty(size) for name, size in open_blip.shapes(**PUBLISHED).items()}
    found = blip.converted(state)
    assert (len(state), len(found)) == (24 * 12 + 6 + 12 * 26 + 4 + 10 + 5, 24 * 12 + 6 + 12 * 26 + 4 + 10)
    tensors.check("here", found, blip.shapes())
    vision, text = (tower.config for tower in blip.build())
    # What the shapes can't tell.
    assert (vision.num_attention_heads, vision.layer_norm_eps, vision.hidden_act) == (16, 1e-6, "gelu")
    assert (text.num_attention_heads, text.layer_norm_eps, text.hidden_act) == (12, 1e-12, "gelu")


@pytest.mark.parametrize("name", ["blip.text_decoder.bias", "blip.visual_encoder.blocks.0.attn.q.weight", "mlp.weight"])
def test_another_checkpoints_key_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"expected the keys of ImageReward, .* found '{name}'"):
        blip.converted({name: torch.zeros(1)})


def test_gradients_are_those_of_small_differences(folder: Path) -> None:
    reward = load(folder)
    pixels = (pictures(1) * 0.8).requires_grad_(True)
    reward(pixels, ["a cat"]).sum().backward()
    assert reward.differentiable and pixels.grad is not None
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2))
    up, down = (float(expected(pixels.detach() + s * direction, ["a cat"])) for s in (1e-3, -1e-3))
    assert float((pixels.grad * direction).sum()) == pytest.approx((up - down) / 2e-3, rel=0.02)


def test_an_image_that_isnt_finite_has_no_score_and_spoils_no_other(folder: Path) -> None:
    pixels = pictures(3)
    whole = load(folder, 3)(pixels, PROMPTS)
    pixels[1, 0, 20, 20] = float("nan")
    found = load(folder, 3)(pixels, PROMPTS)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_tokens_that_are_cut_are_counted(folder: Path) -> None:
    """A token a letter and two more: 33 letters fit, 37 lose 4. Capitals are read as small letters."""
    reward, pixels = load(folder), pictures(2)
    found = rewards.scores(reward, pixels, ["a" * 33, "b" * 37])
    assert found["imagereward_tokens_cut"].tolist() == [0, 4]
    assert torch.equal(reward(pixels, ["a cat", "dog"]), reward(pixels, ["A CAT", "Dog"]))


def test_a_gpus_precision_scores_nearly_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = load(folder)
    monkeypatch.setattr(clip, "precision", lambda device: torch.bfloat16)
    rough, pixels = load(folder), pictures(3)
    found, wanted = rough(pixels, PROMPTS), exact(pixels, PROMPTS)
    assert found.dtype == torch.float32 and rough.version.endswith("-bfloat16")
    assert 0 < (found - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_a_prompt_is_missing(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected a prompt for each of 3 images, got 1"):
        load(folder)(pictures(3), ["a"])
