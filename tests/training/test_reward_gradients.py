"""Reward gradients on a real little model, its VAE and a reward model: a LoRA policy goes on where it was."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffalign.config.params import Params
from diffalign.methods.pairwise import PairMethod
from diffalign.training.learner import build, make_accelerator
from diffalign.training.resume import restore
from stages import ingest, precompute
from tests.helpers import specs, tiny_rewards
from tests.helpers.project import make_inputs, make_params
from tests.helpers.spread import NO_SOURCE, kept, steps

POLICIES: dict[str, Any] = {
    "base": {"method": "none"},
    # With what a sweep could disturb: adapters that are switched off for the KL, activations that are computed again.
    "lora": {
        "method": "alignprop",
        "lora": {"rank": 4, "alpha": 8, "targets": None},
        "gradient_checkpointing": True,
        "kl": {"weight": 1.0, "space": "output"},
        "hinge": 1000.0,
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    make_inputs(folder, rows=12)
    tiny_rewards.make("learned", folder / "judge")
    values = make_params(folder, POLICIES, rollouts={"rewards_from": "judge"})
    ingest.run(values)
    precompute.run(values)
    yield values
    os.chdir(before)


def test_it_goes_on_where_it_was_bit_for_bit(project: Params) -> None:
    """A step, and two more; those two also by a learner that knows the checkpoint only."""
    spec, accelerator = specs.spec(project, "lora"), make_accelerator("cpu", 1, "fp32")
    whole, again = build(spec, accelerator), build(spec, accelerator)
    logs = steps(whole, spec, 0, 1)
    start = kept(whole)
    restore(again, PairMethod(NO_SOURCE), start)
    logs += steps(whole, spec, 1, 3)
    steps(again, spec, 1, 3)
    expected, found = kept(whole), kept(again)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(not torch.equal(start[key], value) for key, value in expected.items() if key.startswith("weights."))
    assert all(line["gradient_end"] > 0 and line["grad_norm"] > 0 and line["dropped"] == 0 for line in logs)
    assert logs[0]["kl"] == 0 < logs[2]["kl"]
