"""A reward of one's own over HTTP: the contract, the documented service, and what breaks it."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffalign.data.pixels import from_uint8
from diffalign.rewards import reward as rewards
from diffalign.rewards.parts import service
from tests.helpers.judge_server import JudgeServer

SETTINGS = {
    "version": "7",
    "trained_on": "nothing at all",
    "batch_size": 2,
    "token_variable": None,
    "per_minute": None,
    "parallel": 2,
    "timeout": 5,
    "retries": 1,
    "families": ["shapes"],
}


def load(url: str, **changes: Any) -> rewards.Reward:
    return rewards.load("http", {"url": url, **SETTINGS, **changes}, "cpu")


def pictures(*levels: int) -> torch.Tensor:
    return from_uint8([np.full((4, 6, 3), level, np.uint8) for level in levels])


@pytest.fixture
def documented(repo: Path) -> Iterator[str]:
    """The address of the service that docs/evaluation.md has, on a free port."""
    (code,) = re.findall(r"```python\n(.*?)```", (repo / "docs/evaluation.md").read_text(), re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", code.replace("8001", str(port))], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


def test_the_documented_service_scores(documented: str) -> None:
    """Brightness 0, 1 and 0.2; null for the empty prompt."""
    reward = load(documented)
    found = reward(pictures(0, 255, 51, 9), ["a", "b", "c", ""])
    assert found[:3].tolist() == pytest.approx([0, 1, 0.2]) and found[3].isnan()
    assert (reward.version, reward.trained_on, reward.differentiable) == ("7", "nothing at all", False)
    assert reward.families == ("shapes",)


@pytest.mark.parametrize(
    "answer",
    [
        b"hello",
        [1.0, 2.0],
        {"scores": [1.0]},
        {"scores": ["1", "2"]},
        {"scores": {"a": 1}},
        b'{"scores": [NaN, 1]}',
        b'{"scores": [Infinity, 1]}',
        {"scores": [True, 1.0]},
    ],
    ids=str,
)
def test_an_answer_that_breaks_the_contract_is_missing(
    answer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second request's images have no score, the first's do."""
    monkeypatch.setattr(service, "FIRST_PAUSE", 0.01)
    server = JudgeServer(lambda number, body: (200, answer if body["prompts"][0] == "c" else {"scores": [3, -0.5]}))
    try:
        found = load(server.url)(pictures(0, 1, 2, 3), ["a", "b", "c", "d"])
        assert found[:2].tolist() == [3, -0.5] and found[2:].isnan().all()
        assert "http: 1 of 2 questions have no answer" in capsys.readouterr().err
    finally:
        server.close()
