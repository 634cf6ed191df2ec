"""Rewards say what they are, score the same tensors everywhere, and have no score for what they can't judge."""

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.data.pixels import from_uint8
from diffalign.evaluation.scores import as_values
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Detailed
from diffalign.shapes import oracle, scenes
from tests.helpers import tiny_rewards

APART = ("hpsv3", "http", "implicit", "raters", "unmarked", "vlm")
"""Rewards with settings of their own, that need a server, a policy or a large text: their own tests have them."""
NAMES = [name for name in axes.names("diffalign.rewards") if name not in APART]
PROGRAMS = ("jpeg_compressibility", "jpeg_incompressibility", "oracle", "placebo")
SHIPPED = ("brisque", "nsfw", "ocr")
"""Rewards without settings; the others take a folder of weights, here a tiny one. SHIPPED have theirs from packages."""
BUILT = [pytest.param(name, marks=pytest.mark.extra) if name in SHIPPED else name for name in NAMES]
RED, BLUE = "a large red circle on a white background", "a large blue square on a black background"
FOREIGN = "a painting of <b>spring</b>"


def rendered(text: str) -> np.ndarray:
    scene = scenes.parse_caption(text)
    assert scene is not None
    return scenes.render(scene)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Of each reward, to build it here."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_rewards.shrink(patch)
        folders = {name: tiny_rewards.make(name, tmp_path_factory.mktemp(name)) for name in tiny_rewards.BACKBONES}
        yield {name: {} for name in (*PROGRAMS, *SHIPPED)} | {
            name: {"path": str(folder), "batch_size": 2} | ({} if name == "learned" else {"sha256": None})
            for name, folder in folders.items()
        }


@pytest.mark.parametrize("name", BUILT)
def test_a_reward_says_what_it_is(name: str, settings: dict[str, object]) -> None:
    reward = rewards.load(name, settings[name], "cpu")
    assert reward.name == name
    assert reward.version and len(reward.trained_on) > 20
    low, high = reward.range
    assert low < high
    assert reward.differentiable == getattr(rewards.typed(name, settings[name]), "differentiable", False)
    assert all(re.fullmatch(r"[a-z0-9_]+", tag) for tag in reward.families)


@pytest.mark.parametrize("name", BUILT)
def test_a_reward_scores_a_batch_as_it_scores_its_images(name: str, settings: dict[str, object]) -> None:
    reward = rewards.load(name, settings[name], "cpu")
    pixels = from_uint8([rendered(RED), rendered(BLUE)])
    prompt = f'{RED} with the word "HELLO"' if name == "ocr" else RED
    found = reward(pixels, [prompt, prompt])
    assert found.shape == (2,)
    one_by_one = [float(reward(pixels[i : i + 1], [prompt])) for i in range(2)]
    torch.testing.assert_close(found, torch.tensor(one_by_one, dtype=found.dtype))
    assert all(reward.range[0] <= value <= reward.range[1] for value in one_by_one)


def test_an_unknown_reward_is_named() -> None:
    with pytest.raises(UserError, match="found 'clip'"):
        rewards.load("clip", {}, "cpu")


def test_the_oracles_scores_are_those_of_the_same_levels() -> None:
    """Bit for bit what `shapes.oracle` says of the uint8 image, noise on it or none."""
    rng = np.random.default_rng(0)
    images = [rendered(RED), rendered(BLUE)]
    images += [np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8) for image in images]
    prompts = [RED, BLUE, RED, RED]
    found = rewards.score_images(rewards.load("oracle", {}, "cpu"), images, prompts)
    expected = [oracle.score(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    assert found["oracle"].tolist() == [score.oracle for score in expected]
    assert found["oracle_fidelity"].tolist() == [score.fidelity for score in expected]
    assert found["oracle_aesthetics"].tolist() == [score.aesthetics for score in expected]


def test_the_oracle_knows_right_from_wrong_and_what_it_cannot_judge() -> None:
    image = rendered(RED)
    found = rewards.score_images(rewards.load("oracle", {}, "cpu"), [image] * 3, [RED, BLUE, FOREIGN])
    skills = [f"oracle_{skill}" for skill in ("object", "count", "colour", "position", "binding")]
    assert list(found) == ["oracle", "oracle_fidelity", "oracle_aesthetics", *skills]
    assert found["oracle"][0] > 0.9
    assert found["oracle"][1] < 0.3
    assert all(math.isnan(values[2]) for values in found.values())
    right, made, whole = (found[k][:2] for k in ("oracle_fidelity", "oracle_aesthetics", "oracle"))
    np.testing.assert_allclose(whole, right * (0.5 + 0.5 * made))


def test_an_image_that_isnt_finite_has_no_score() -> None:
    pixels = from_uint8([rendered(RED)] * 2)
    pixels[1, 0, 3, 3] = float("nan")
    found = rewards.load("oracle", {}, "cpu")(pixels, [RED, RED])
    assert found[0] > 0.9 and found[1].isnan()


class Brightness:
    """A reward without parts, with gradients and without bounds."""

    name, version, trained_on, differentiable = "brightness", "1", "nothing", True
    families: tuple[str, ...] = ()
    range = (-math.inf, math.inf)

    def __call__(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """The mean of the pixels."""
        return pixels.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_no_score(value: float) -> None:
    assert as_values(np.array([0.5, np.nan])) == [0.5, None]
    with pytest.raises(UserError, match=r"gave the score -?inf to 1 of 3 images: expected a finite score"):
        as_values(np.array([0.5, value, np.nan]))


def test_a_reward_without_parts_has_one_column() -> None:
    reward = Brightness()
    assert not isinstance(reward, Detailed)
    found = rewards.scores(reward, torch.ones(2, 3, 4, 4, requires_grad=True), ["a", "b"])
    assert list(found) == ["brightness"] and found["brightness"].tolist() == [1, 1]
    assert rewards.describe(reward)["range"] == (None, None)


def test_gradients_reach_the_pixels_of_a_differentiable_reward() -> None:
    pixels = torch.zeros(1, 3, 4, 4, requires_grad=True)
    Brightness()(pixels, ["a"]).sum().backward()
    assert pixels.grad is not None and torch.allclose(pixels.grad, torch.full_like(pixels, 1 / 48))
