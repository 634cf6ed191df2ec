"""The forwards that settings say a picture takes, against those that methods make: `plan` counts by them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffalign.config.rollout import Rolled
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.methods import method as methods
from diffalign.reference.reference import live
from tests.helpers import memory_rollouts
from tests.helpers.memory_batches import Denoiser
from tests.helpers.methods import Offers
from tests.helpers.project import make_params

EXACT = {"through": "exact", "sees": "estimate"}
KL = {"kl": {"weight": 0.1, "space": "output"}}
POLICIES: dict[str, dict[str, Any]] = {
    "ddpo": {"method": "ddpo"},
    "grpo": {"method": "grpo", "moves": {"share": 1.0, "span": [0.0, 0.75]}, **KL},
    "grpo_half": {"method": "grpo", "train_unconditional": False, **KL},
    "dpok": {"method": "dpok"},
    "nft": {"method": "nft"},
    "nft_free": {"method": "nft", "kl": {"weight": 0.0, "space": "output"}},
    "online_dpo": {"method": "online_dpo"},
    "raft": {"method": "raft"},
    "draft": {"method": "draft", "gradient": {"steps": 3, "renoise": 0, "through": "exact", "sees": "end"}, **KL},
    "draft_half": {"method": "draft", "train_unconditional": False, **KL},
    "draft_lv": {"method": "draft", "gradient": {"steps": 2, "renoise": 2, **EXACT}},
    "alignprop": {"method": "alignprop", "gradient": {"steps": [2, 2], **EXACT}},
    "refl": {"method": "refl"},
    "drtune": {"method": "drtune", "gradient": {"steps": 2, "stop": [0.75, 1.0]}},
}


class Counting(Denoiser):
    """Counts the images that it's asked about, by whether gradients are kept."""

    counts: dict[bool, int]

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.counts[torch.is_grad_enabled()] += len(x_t)
        return super().forward(x_t, t, cond)


@pytest.mark.parametrize("name", POLICIES)
def test_settings_say_a_pictures_forwards(name: str, tmp_path: Path) -> None:
    """Over all updates of a rollout, guidance's halves apart; a reference's are without gradients."""
    values = make_params(
        tmp_path, {"base": {"method": "none"}, name: POLICIES[name]}, rollouts={"rewards_from": "judge"}
    )
    policy = values.policies[name]
    assert isinstance(policy, Rolled)
    how = policy.rollout
    source = memory_rollouts.source(
        guidance=how.guidance,
        train_unconditional=getattr(policy, "train_unconditional", True),
        steps=how.steps,
        sampler=samplers.load(how.sampler.model_dump()),
        per_prompt=how.images_per_prompt,
        updates=how.updates,
    )
    method = methods.load(policy, Offers(source))
    own, reference = Counting(0), Counting(1)
    own.counts = reference.counts = {True: 0, False: 0}
    for step in range(how.updates):
        for batch in method.batches(own, live(reference), step):
            method.loss(own, live(reference), batch, log=False)[0].backward()
    pictures, said = source.batch_size * how.updates, policy.forwards()
    assert own.counts[False] / pictures == said.plain
    assert own.counts[True] / pictures == said.swept + said.trained
