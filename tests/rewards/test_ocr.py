"""The OCR reward: the formula on what is read, and PP-OCRv6 on rendered text, without a network."""

import math

import numpy as np
import pytest
import torch

from diffalign.rewards import reward as rewards
from diffalign.rewards.ocr import TextRendering
from diffalign.rewards.reward import Reward
from tests.helpers import degraded
from tools.photographs import blur

SIGN = 'a red sign that says "COFFEE"'


@pytest.fixture(scope="module")
def ocr() -> Reward:
    return rewards.load("ocr", {}, "cpu")


def score(reward: Reward, picture: np.ndarray, prompt: str = SIGN) -> float:
    return float(rewards.score_images(reward, [picture], [prompt])["ocr"][0])


def test_nothing_quoted_and_no_finite_image_have_no_score() -> None:
    reward = TextRendering(lambda image: "cofee")
    pixels = torch.zeros(3, 3, 8, 8)
    pixels[2] = float("nan")
    found = reward(pixels, [SIGN, "a red sign", SIGN]).tolist()
    assert found[0] == pytest.approx(1 - 1 / 6)
    assert math.isnan(found[1]) and math.isnan(found[2])


@pytest.mark.extra
def test_misspelt_step_by_step(ocr: Reward) -> None:
    found = [score(ocr, degraded.text(word)) for word in ("COFFEE", "COFFE", "COFE", "TEAPOT")]
    assert found[:3] == pytest.approx([1, 5 / 6, 4 / 6])
    assert found[3] < 0.5


@pytest.mark.extra
def test_blurred_step_by_step(ocr: Reward) -> None:
    """Read well at first, then not at all; no step reads better than the one before."""
    found = [score(ocr, blur(degraded.text("COFFEE"), radius)) for radius in (0, 3, 5, 12)]
    assert found[0] == 1 and found[-1] == 0
    assert found == sorted(found, reverse=True)


@pytest.mark.extra
def test_it_reads_64_pixels_and_several_words(ocr: Reward) -> None:
    assert score(ocr, degraded.text("HI", side=64, size=28), 'a sign "HI"') == 1
    assert score(ocr, degraded.text("OPEN LATE", size=40), 'a sign "open" and below it “late”') == 1
    assert score(ocr, degraded.photograph("chelsea")[:256, :256], 'a cat with a sign "MEOW"') == 0
