"""Rollouts in memory: prompts, a decoder and rewards of a few lines, for methods that learn from their own pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffalign.data.shards.reader import UNCONDITIONAL, prompt_key
from diffalign.diffusion.process import Diffusion, Flow, scaled_linear
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.rollouts.slots import Places
from diffalign.rollouts.source import RolloutSource
from tests.helpers.memory_batches import Denoiser

SHAPE = (4, 4, 4)
TEXTS = [f"p{i}" for i in range(5)]
PROCESSES = {"diffusion": Diffusion(scaled_linear(0.00085, 0.012, 1000), "epsilon"), "flow": Flow(1000, 3.0)}
SAMPLERS = {"diffusion": {"name": "ddim", "eta": 1.0, "spacing": "leading"}, "flow": {"name": "flow_sde", "noise": 0.7}}


@dataclass(frozen=True)
class Brightness:
    """A smooth reward: minus the squared distance of a picture's mean from 0.3."""

    differentiable: bool = True

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return -((pixels.flatten(1).mean(1) - 0.3) ** 2)


@dataclass(frozen=True)
class Fixed:
    """A reward that gives each picture of a call the next of some values."""

    values: Sequence[float]
    differentiable: bool = False
    service: bool = False

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor(self.values[: len(prompts)], dtype=torch.float64)


def source(kind: str = "diffusion", **changes: Any) -> RolloutSource:
    """Returns a source of pictures for five prompts; changes of `Places` by their names, too."""
    rng = torch.Generator().manual_seed(0)
    prompts: Any = {prompt_key(text): {"hidden": torch.randn(3, 2, generator=rng)} for text in TEXTS}
    prompts[prompt_key("")] = {"hidden": torch.ones(3, 2)}
    prompts[UNCONDITIONAL] = {"hidden": torch.zeros(3, 2)}
    where = {key: changes.pop(key) for key in list(changes) if key in Places.__dataclass_fields__}
    values: dict[str, Any] = {"seed": 3, "prompts": len(TEXTS), "batch_size": 8, "per_prompt": 4, "updates": 1}
    values |= {"micro_batch_size": 4, "shared_noise": False, "rank": 0, "world": 1}
    found = RolloutSource(
        places=Places(**values | where),
        texts=TEXTS,
        prompts=prompts,
        image={},
        shape=SHAPE,
        process=PROCESSES[kind],
        sampler=samplers.load(SAMPLERS[kind]),
        steps=5,
        guidance=2.0,
        decode=lambda x0: x0[:, :3].tanh(),
        scorers={"brightness": Brightness()},
        weighing={"brightness": 1.0},
        summed=lambda tensor: tensor,
        device=torch.device("cpu"),
    )
    return replace(found, **changes)


def gradient(method: Any, policy: Denoiser, reference: Any = None, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of a step's loss, and the sums of its logs."""
    policy.weight.grad, sums = None, dict[str, Tensor]()
    for batch in method.batches(policy, reference, step):
        loss, logs = method.loss(policy, reference, batch, True)
        loss.backward()
        sums = {name: sums.get(name, torch.zeros(())) + value for name, value in logs.items()}
    assert policy.weight.grad is not None
    return policy.weight.grad.clone(), sums
