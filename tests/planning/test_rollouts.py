"""The plan of policies that learn from their own pictures, against what a real step takes."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.methods import method as methods
from diffalign.planning import plan_text, planner, rollouts
from diffalign.planning.planner import Machine, Plan
from diffalign.rewards.parts import clip
from diffalign.rewards.parts.pixels import clip_square
from diffalign.training.dataset import Sources
from diffalign.training.learner import build, make_accelerator
from diffalign.training.step import optimizer_step
from stages import ingest, precompute
from tests.helpers import specs
from tests.helpers.project import make_inputs, make_params


class Held:
    """A tensor that a graph keeps, as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


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
            optimizer_step(learner, method, run.policy, step, True)
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


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_clips_graph_keeps_what_is_counted(activation: str) -> None:
    """The learned reward's kind: what autograd holds after a forward, less the weights, beside the rule."""
    config = CLIPConfig(
        vision_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
        | {"image_size": 32, "patch_size": 8, "hidden_act": activation},
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20},
        projection_dim=16,
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: WeakSet[Held] = WeakSet()

    def hold(tensor: Tensor) -> Held:
        held.add(one := Held(tensor))
        return one

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda one: one.tensor):
        found = clip.embedded(model, clip_square, torch.rand(2, 3, 32, 32, requires_grad=True))
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in held}
    kept = sum(size for place, size in storages.items() if place not in own)
    assert found.requires_grad
    assert 2 * 4 * (rollouts.kept(config.to_dict()["vision_config"]) or 0) == pytest.approx(kept, rel=0.03)


def test_a_rewards_graph_is_behind_the_decoders(project: Params, found: dict[str, Plan]) -> None:
    """A tower of 17 places: 2 (6 x 8 + 16) + 2 x 8 numbers each and 3 x 64^2 of the picture, in bf16 on a GPU."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "image_size": 64, "patch_size": 16}
    plain, counts = found["draft"].memory.activations, found["draft"].counts
    kept = 17 * (2 * (6 * 8 + 16) + 2 * 8) + 3 * 64**2
    Path("judge/config.json").write_text(json.dumps({"vision_config": sizes | {"hidden_act": "gelu"}}))
    try:
        for machine, precision in ((MACHINE, 4), (replace(MACHINE, device="cuda"), 2)):
            (plan,) = (item for item in planner.plans(project, machine) if item.name == "draft")
            assert plan.memory.activations == max(plain, 4 * (counts.decode_kept + precision * kept))
        assert "which isn't known" not in plan_text.text(project, MACHINE)
    finally:
        Path("judge/config.json").unlink()
    assert "rewards: learned (" in (said := plan_text.text(project, MACHINE))
    assert said.count(" GB) without its graph's memory, which isn't known") == 1


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
