"""The plan of policies that learn from their own pictures, against what a real step takes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.methods import method as methods
from diffalign.planning import plan_text, planner, rollouts
from diffalign.planning.planner import Machine, Plan
from diffalign.training import loop as training
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from stages import ingest, precompute
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params

MACHINE = Machine("cpu", None, 1, 1, "fp32", "ddp", False, 1e12)
LEARNED = {"learned": {"weight": 1.0, "path": "judge", "batch_size": 4}}
POLICIES: dict[str, dict[str, Any]] = {
    "ddpo": {"method": "ddpo"},
    "grpo": {"method": "grpo", "kl": {"weight": 0.1, "space": "output"}},
    "nft": {"method": "nft"},
    "online_dpo": {"method": "online_dpo"},
    "raft": {"method": "raft"},
    "draft": {"method": "draft"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A project with shards, and a reward model's folder of 1,000 numbers."""
    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(folder)
    make_inputs(folder)
    Path("judge").mkdir()
    save_file({"weight": torch.zeros(10, 100)}, "judge/model.safetensors")
    values = make_params(folder, {"base": {"method": "none"}} | POLICIES, rollouts={"rewards_from": "judge"})
    ingest.run(values)
    precompute.run(values)
    yield values
    os.chdir(before)


@pytest.fixture(scope="module")
def found(project: Params) -> dict[str, Plan]:
    return {item.name: item for item in planner.plans(project, MACHINE)}


@pytest.mark.parametrize(
    "name", ["grpo", *(pytest.param(slow, marks=pytest.mark.slow) for slow in ("ddpo", "nft", "online_dpo", "raft"))]
)
def test_counted_flops_are_those_of_real_steps(name: str, project: Params, found: dict[str, Plan]) -> None:
    """A whole rollout's steps with the real network, VAE and reward, which takes no FLOPs; PyTorch's own counter."""
    run = specs.spec(project, name)
    learner = build(run, make_accelerator("cpu", 1, "fp32"))
    method = methods.load(run.policy, Sources(run, learner))
    assert isinstance(run.policy, Rolled)
    steps = run.policy.rollout.updates
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for step in range(steps):
            training.optimizer_step(learner, method, run.policy, step, True)
    real = counter.get_total_flops() / (steps * run.policy.batch_size)
    assert found[name].flop_per_pair == pytest.approx(real, rel=1e-9)


def test_a_rewards_work_and_memory_by_hand(project: Params, found: dict[str, Plan]) -> None:
    """1,000 numbers at (224 / 14)^2 + 1 places: 514,000 FLOP forward, thrice that with the way back."""
    size = Path("judge/model.safetensors").stat().st_size
    draft, ddpo = found["draft"], found["ddpo"]
    assert isinstance(draft.policy, Rolled)
    assert rollouts.making(draft.policy, draft.counts)["rewards"] == pytest.approx(3 * 2 * size / 4 * 257)
    assert draft.memory.rewards == size and ddpo.memory.rewards == 0
    latent = 4 * prod(draft.counts.latent)
    assert draft.memory.trajectories == 4 * 5 * latent  # a piece of four, five states
    assert ddpo.memory.trajectories == 2 * 8 * 5 * latent  # two updates of eight
    assert (draft.memory.old, ddpo.memory.old) == (0, ddpo.memory.gradients)
    assert ddpo.memory.vae == 4 * ddpo.counts.vae > 0
    Path("judge/config.json").write_text('{"vision_config": {"image_size": 64, "patch_size": 16}}')
    try:
        assert rollouts.models(draft.policy)[0].tokens == 17
    finally:
        Path("judge/config.json").unlink()


def test_the_words(project: Params, found: dict[str, Plan]) -> None:
    """Pictures instead of pairs; rewards with their memory; one whose folder isn't there yet."""
    said = plan_text.text(project, MACHINE)
    assert "          rolling out 3" in said and "%; rewards: jpeg_compressibility (no weights)\n" in said
    assert ", the weights before " in said and ", the VAE " in said and ", the rollout's latents " in said
    draft = found["draft"].policy
    absent = draft.model_copy(update={"reward": {"learned": LEARNED["learned"] | {"path": "judge/absent"}}})
    assert isinstance(absent, Rolled)
    (model,) = rollouts.models(absent)
    assert model.told() == "learned (nothing in judge/absent yet: its memory and work aren't counted)"
    assert replace(model, size=4 * 10**9).told() == "learned (4 GB)"
