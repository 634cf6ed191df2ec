"""What the environment decides, and how it is refused."""

import pytest
import torch

from diffalign.core.errors import UserError
from diffalign.runtime import environment


def test_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")
    assert environment.default_device() == "cpu"
    monkeypatch.setenv("DIFFALIGN_DEVICE", "tpu")
    with pytest.raises(UserError, match="expected cpu or cuda, got 'tpu'"):
        environment.default_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cuda")
    with pytest.raises(UserError, match="found none"):
        environment.default_device()


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFALIGN_DEVICE", "cpu")
    monkeypatch.delenv("DIFFALIGN_PROCESSES", raising=False)
    assert environment.world_size() == 1
    monkeypatch.setenv("DIFFALIGN_PROCESSES", "3")
    assert environment.world_size() == 3
    for wrong in ("0", "-1", "two"):
        monkeypatch.setenv("DIFFALIGN_PROCESSES", wrong)
        with pytest.raises(UserError, match="expected a whole number from 1"):
            environment.world_size()
