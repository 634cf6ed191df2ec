"""Rewards made of a CLIP score as their authors' networks do, and refuse another network than theirs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.models.parts import weights
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import clip
from diffalign.rewards.parts.pixels import clip_square, normalised, padded_square, unit
from tests.helpers import open_clip, tiny_rewards

REWARDS = {
    "clip_score_h14": (1.0, clip_square),
    "clip_score_l14": (1.0, clip_square),
    "hpsv2": (1.0, padded_square),
    "hpsv2_1": (1.0, padded_square),
    "pickscore": (100.0, clip_square),
}
"""The factor of each reward's cosines, and its preprocessing."""
PROMPTS = ["a red cat", "", "the thing with far too many letters to be read whole"]


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Tiny networks stand for the real backbones."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_rewards.shrink(patch)
        yield


@pytest.fixture(scope="module", params=REWARDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A reward's name, and a folder of weights for it."""
    return request.param, tiny_rewards.make(request.param, tmp_path_factory.mktemp(request.param))


def load(name: str, folder: Path, batch_size: int = 2) -> rewards.Reward:
    return rewards.load(name, {"path": str(folder), "batch_size": batch_size, "sha256": None}, "cpu")


def pictures(count: int, side: int = 40) -> Tensor:
    """Pixels [B, 3, H, W] in [-1, 1]."""
    return torch.rand(count, 3, side, side + 9, generator=torch.Generator().manual_seed(3)) * 2 - 1


def expected(name: str, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """The score by open_clip's own computation, in float64."""
    (factor, square), activation = REWARDS[name], tiny_rewards.ACTIVATIONS[tiny_rewards.BACKBONES[name]]
    state = {key: value.double() for key, value in open_clip.random_state(1).items()}
    images = normalised(square(unit(pixels), open_clip.SIDE)).double()
    found = open_clip.embed_images(state, images, activation) * open_clip.embed_prompts(state, prompts, activation)
    return factor * found.sum(dim=1)


def test_scores_are_those_of_the_original_network(made: tuple[str, Path]) -> None:
    """A cosine within 1e-5; the prompts are a short one, an empty one and one that is cut."""
    name, folder = made
    pixels, factor = pictures(3), REWARDS[name][0]
    found = load(name, folder)(pixels, PROMPTS)
    assert found.dtype == torch.float32
    wanted = expected(name, pixels, PROMPTS)
    torch.testing.assert_close(found.double() / factor, wanted / factor, atol=1e-5, rtol=0)
    assert wanted.std() > 0.02 * factor, "the test's weights tell images and prompts apart"


def test_a_batch_is_scored_as_its_images_are(made: tuple[str, Path]) -> None:
    """Whatever goes into a forward: all five, two at a time, or one."""
    name, folder = made
    pixels, prompts = pictures(5), ["a", "b c", "d", "", "e f g"]
    whole, pairs, single = (load(name, folder, size)(pixels, prompts) for size in (8, 2, 1))
    torch.testing.assert_close(whole, pairs, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole, single, atol=1e-4, rtol=0)


def test_gradients_are_those_of_small_differences(made: tuple[str, Path]) -> None:
    """Along a random direction the score changes as the gradient says; weights get none."""
    name, folder = made
    reward = load(name, folder)
    assert reward.differentiable
    pixels, direction = pictures(1) * 0.8, torch.randn(1, 3, 40, 49, generator=torch.Generator().manual_seed(4))
    pixels.requires_grad_(True)
    reward(pixels, ["a cat"]).sum().backward()
    assert pixels.grad is not None
    slope, step = float((pixels.grad * direction).sum()), 1e-3
    up, down = (float(expected(name, pixels.detach() + s * direction, ["a cat"])) for s in (step, -step))
    assert slope == pytest.approx((up - down) / (2 * step), rel=0.02)
    assert all(p.grad is None for p in reward.clip.model.parameters())  # type: ignore[attr-defined]


def test_levels_and_floats_score_alike(made: tuple[str, Path]) -> None:
    """One function trains and judges: 8-bit images get the score of their floats."""
    name, folder = made
    images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(2)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    reward = load(name, folder)
    found = rewards.score_images(reward, images, ["a", "b"])
    assert found[name].tolist() == reward(pixels.float(), ["a", "b"]).double().tolist()


def test_an_image_that_isnt_finite_has_no_score_and_spoils_no_other(made: tuple[str, Path]) -> None:
    name, folder = made
    pixels = pictures(3)
    whole = load(name, folder, 3)(pixels, PROMPTS)
    pixels[1, 0, 20, 20] = float("inf")
    found = load(name, folder, 3)(pixels, PROMPTS)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])


def test_tokens_that_are_cut_are_counted(made: tuple[str, Path]) -> None:
    """The tiny tokenizer has a token a letter, two more a prompt, and reads 12: ten letters fit, thirteen don't."""
    name, folder = made
    prompts = ["a", "abcdefghij", "abcdefghij klm"]
    found = rewards.scores(load(name, folder), pictures(3), prompts)
    assert list(found) == [name, f"{name}_tokens_cut"]
    assert found[f"{name}_tokens_cut"].tolist() == [0, 0, 3]


def test_a_folder_without_weights_says_where_they_are_from(made: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(made[0], tmp_path)
    told = str(error.value)
    for words in (f"rewards.{made[0]}.path: expected a folder with", "without", "model.safetensors", "huggingface.co/"):
        assert words in told
    assert (f"tools.convert_reward {made[0]} HPS_v2" in told) == made[0].startswith("hps")


def test_another_network_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    """OpenAI's activation is not LAION's: with the wrong one scores would be wrong, and nothing else would tell."""
    name, folder = made
    backbone = tiny_rewards.BACKBONES[name]
    activation = tiny_rewards.ACTIVATIONS[backbone]
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "checksums.json").unlink(missing_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for section in ("text_config", "vision_config"):
        config[section]["hidden_act"] = other
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = f"hidden_act: expected '{activation}', as CLIP {backbone} has, found '{other}'"
    with pytest.raises(UserError, match=told):
        load(name, tmp_path)


def test_an_end_token_that_isnt_the_tokenizers_is_refused(tmp_path: Path) -> None:
    open_clip.make_folder(tmp_path, open_clip.random_state(1), "gelu")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"eos_token_id: expected the tokenizer's \d+, or 2 in an old file, found 5"):
        load("pickscore", tmp_path)
    config["text_config"]["eos_token_id"] = 2  # as published: it reads the vocabulary's last token, too
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = pictures(3)
    torch.testing.assert_close(
        load("pickscore", tmp_path)(pixels, PROMPTS).double(), expected("pickscore", pixels, PROMPTS), atol=1e-3, rtol=0
    )


def test_other_weights_are_another_version_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        open_clip.make_folder(tmp_path / str(seed), open_clip.random_state(seed), "gelu")
    first, second = (load("pickscore", tmp_path / str(seed)).version for seed in (1, 2))
    assert first != second and first.endswith("-float32")
    weights.note(tmp_path / "1")
    (tmp_path / "1/model.safetensors").write_bytes((tmp_path / "2/model.safetensors").read_bytes())
    with pytest.raises(UserError, match="it was damaged or replaced"):
        load("pickscore", tmp_path / "1")


def test_a_prompt_is_missing(made: tuple[str, Path]) -> None:
    with pytest.raises(ValueError, match="expected a prompt for each of 3 images, got 1"):
        load(*made)(pictures(3), ["a"])


def test_a_gpus_precision_scores_nearly_alike(made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 has 8 bits: cosines within 0.03, in float32, with gradients; the version says which it was."""
    name, folder = made
    assert clip.precision("cuda") == torch.bfloat16 and clip.precision("cpu") == torch.float32
    exact = load(name, folder)
    monkeypatch.setattr(clip, "precision", lambda device: torch.bfloat16)
    rough = load(name, folder)
    assert rough.range == exact.range, "the factor, 100, isn't one of bfloat16's numbers as a logarithm"
    assert (exact.version, rough.version) == (exact.version, exact.version.replace("float32", "bfloat16"))
    pixels, factor = pictures(3).requires_grad_(True), REWARDS[name][0]
    found = rough(pixels, PROMPTS)
    assert found.dtype == torch.float32
    off = (found - exact(pixels, PROMPTS)).abs() / factor
    assert 0 < off.max() < 0.03
    found.sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all() and pixels.grad.any()
