"""A step between two log points: the host waits for the device once, where all agree on whether to stop."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.methods import method as methods
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from diffalign.training.step import optimizer_step
from stages import ingest, precompute
from tests.helpers import specs
from tests.helpers.project import REPO, make_inputs, make_params

WAITS = ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")
"""What reads a tensor's value on the host."""
POLICIES = {
    "base": {"method": "none"},
    "dpo": {"method": "dpo"},
    "sft": {"method": "sft"},
    "kto": {"method": "kto"},
    "mapo": {"method": "mapo"},
}


def reader(frame: Any) -> str:
    """The first of our files on the way to a call, its function, and whether an optimizer of PyTorch called.

    AdamW reads its counter of steps, a tensor on the host on a GPU, too.
    """
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.match("torch/optim/*.py"):
            return "the optimizer's counter"
        if path.is_relative_to(REPO / "diffalign"):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "base"])
def test_a_step_waits_once_for_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two micro-batches; a logged step waits once more, for the averages."""
    monkeypatch.chdir(tmp_path)
    make_inputs(tmp_path, rows=12)
    policies = {key: value for key, value in POLICIES.items() if key in ("base", name)}
    values = make_params(tmp_path, policies)
    ingest.run(values)
    precompute.run(values)
    spec = specs.spec(values, name)
    accelerator = make_accelerator("cpu", 1, "fp32")
    learner = build(spec, accelerator)
    method = methods.load(spec.policy, Sources(spec, learner))
    optimizer_step(learner, method, spec.policy, 0, logging=True)
    found: list[str] = []

    def counting(name: str, original: Any) -> Any:
        def counted(self: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            found.append(f"{name} in {reader(sys._getframe(1))}")
            return original(self, *arguments, **named)

        return counted

    for wait in WAITS:
        monkeypatch.setattr(torch.Tensor, wait, counting(wait, getattr(torch.Tensor, wait)))
    counts = []
    for logging in (False, True):
        found.clear()
        optimizer_step(learner, method, spec.policy, 1 + logging, logging)
        counts.append([each for each in found if "optimizer's counter" not in each])
    assert counts[0] == ["tolist in signals.agree"]
    assert counts[1] == ["tolist in signals.agree", "tolist in step.optimizer_step"]
