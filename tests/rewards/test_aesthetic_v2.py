"""The aesthetic predictor scores as its published layers do, one after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear

from diffalign.core.errors import UserError
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import head as heads
from diffalign.rewards.parts.pixels import normalised, openai_square, unit
from tests.helpers import open_clip, tiny_rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        tiny_rewards.shrink(patch)
        yield tiny_rewards.make("aesthetic_v2", tmp_path_factory.mktemp("aesthetic"))


def load(folder: Path, batch_size: int = 2) -> rewards.Reward:
    return rewards.load("aesthetic_v2", {"path": str(folder), "batch_size": batch_size, "sha256": None}, "cpu")


def expected(pixels: Tensor) -> Tensor:
    """The score in float64: OpenAI's image tower, length 1, and five layers."""
    state = {key: value.double() for key, value in open_clip.random_state(1).items()}
    head = {key: value.double() for key, value in tiny_rewards.random_head(1).items()}
    x = open_clip.embed_images(state, normalised(openai_square(unit(pixels), open_clip.SIDE)).double(), "quick_gelu")
    for layer in ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7"):
        x = linear(x, head[f"{layer}.weight"], head[f"{layer}.bias"])
    return x[:, 0]


def test_scores_are_those_of_the_published_layers(folder: Path) -> None:
    pixels = torch.rand(5, 3, 40, 31, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = expected(pixels)
    for batch_size in (1, 2, 8):
        found = load(folder, batch_size)(pixels, [""] * 5)
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)
    assert wanted.std() > 1e-2


def test_the_whole_is_a_vector_and_a_number_by_hand() -> None:
    """Layers that sum, double, add 1, keep and negate: of (1, 2, 3), -(2 * 6 + 1) = -13."""
    state = {name: torch.zeros(size) for name, size in heads.shapes(3).items()}
    state["layers.0.weight"][0] = 1
    state["layers.2.weight"][0, 0] = 2
    state["layers.4.weight"][0, 0], state["layers.4.bias"][0] = 1, 1
    state["layers.6.weight"][0, 0] = 1
    state["layers.7.weight"][0, 0] = -1
    weight, bias = heads.folded(state)
    assert weight.tolist() == [-2, -2, -2] and bias == -1
    assert float(weight @ torch.tensor([1.0, 2, 3]) + bias) == -13


def test_the_head_at_its_published_size_has_ten_tensors() -> None:
    """768 numbers in: the widths that the checkpoint's authors published."""
    shapes = heads.shapes(768)
    assert len(shapes) == 10
    assert [shapes[f"layers.{n}.weight"] for n in (0, 2, 4, 6, 7)] == [
        (1024, 768),
        (128, 1024),
        (64, 128),
        (16, 64),
        (1, 16),
    ]


def test_gradients_reach_the_pixels_and_the_prompt_doesnt_matter(folder: Path) -> None:
    reward = load(folder)
    pixels = (torch.rand(1, 3, 40, 31, generator=torch.Generator().manual_seed(1)) - 0.5).requires_grad_(True)
    reward(pixels, ["a"]).sum().backward()
    assert reward.differentiable and pixels.grad is not None
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2))
    up, down = (float(expected(pixels.detach() + s * direction)) for s in (1e-3, -1e-3))
    assert float((pixels.grad * direction).sum()) == pytest.approx((up - down) / 2e-3, rel=0.02)
    assert torch.equal(reward(pixels.detach(), ["a"]), reward(pixels.detach(), ["b"]))


@pytest.mark.parametrize("what", ["missing", "shape", "nan"])
def test_a_head_of_another_kind_is_refused(folder: Path, tmp_path: Path, what: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    state = load_file(folder / "head.safetensors")
    if what == "missing":
        del state["layers.6.bias"]
    elif what == "shape":
        state["layers.6.bias"] = torch.zeros(17)
    else:
        state["layers.6.bias"][3] = float("nan")
    save_file(state, tmp_path / "head.safetensors", {"format": "pt", "reward": "aesthetic_v2"})
    told = "expected finite numbers" if what == "nan" else r"layers\.6\.bias: expected \[16\] among 10 tensors"
    with pytest.raises(UserError, match=told):
        load(tmp_path)
