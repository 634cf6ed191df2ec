"""The implicit rewards of trained policies on held-out pairs: evaluate and the study measure them here.

Legend: N pairs, K draws a pair.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffalign.data.batches.pairs import Pair
from diffalign.data.shards.reader import Shards, check_fingerprint
from diffalign.diffusion.timesteps import Times
from diffalign.evaluation import implicit_reward
from diffalign.evaluation.implicit_reward import Floats
from diffalign.models import family as families
from diffalign.models import inits, policies

if TYPE_CHECKING:
    from diffalign.config.training import Trained

Reference = tuple[str, tuple[float, float], str]
"""Names the errors of a reference, which policies may share: its weights, and the timesteps with their density."""


@dataclass(frozen=True)
class Setting:
    """The pairs and draws at which all policies are measured, and where the data and the models are."""

    family: str
    model: str
    """Folder of the base model."""
    policies: Path
    """Folder of the trained policies."""
    shards: Path
    resolution: int
    """Pixels a side that the shards were encoded at."""
    pairs: Sequence[Pair]
    draws: int
    """K."""
    seed: int
    batch_size: int
    """Images a forward."""
    device: torch.device | str
    done: Callable[[int], None] = field(default=lambda count: None)
    """Called with the number of pair-draws that have been finished."""

    @cached_property
    def stored(self) -> tuple[Shards, Shards]:
        """Returns the encoded images and prompts; UserError if another model encoded them."""
        images, prompts = Shards(self.shards, "images"), Shards(self.shards, "prompts")
        encoder = families.load(self.family, self.model, ())
        check_fingerprint(images.manifest, encoder.fingerprint(), self.resolution)
        return images, prompts

    def errors(self, model: families.Family, policy: "Trained") -> Floats:
        """Measures a model's denoising errors [N, K, 2] over the timesteps of a policy's objective."""
        images, prompts = self.stored
        return implicit_reward.errors(
            model.denoise,
            self.pairs,
            images,
            prompts,
            times=Times(model.process, *policy.timesteps, policy.timestep_density),
            draws=self.draws,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            done=self.done,
        )


def reference_of(policy: "Trained") -> Reference:
    """Returns what names a policy's reference errors."""
    return policy.held_to, policy.timesteps, policy.timestep_density


def models(trained: "Iterable[Trained]") -> int:
    """Returns how many models are measured for these policies: each of them, and each reference once."""
    found = list(trained)
    return len(found) + len({reference_of(policy) for policy in found})


def rewards(
    trained: "Mapping[str, Trained]", setting: Setting, references: dict[Reference, Floats] | None = None
) -> dict[str, Floats]:
    """Returns the implicit rewards [N, 2] (winner, loser) of policies, by name and in their order.

    Policies with one reference and the same timesteps share its errors; `references` keeps them between calls.
    """
    known = {} if references is None else references
    found = {}
    for reference in dict.fromkeys(map(reference_of, trained.values())):
        sharing = {name: policy for name, policy in trained.items() if reference_of(policy) == reference}
        if reference not in known:
            model = families.load(setting.family, setting.model, (), setting.device)
            policy = next(iter(sharing.values()))
            inits.load_denoiser(model, setting.family, setting.model, policy.held_to)
            known[reference] = setting.errors(model, policy)
        for name, policy in sharing.items():
            model = policies.load_policy(setting.family, setting.model, setting.policies / name, setting.device, ())
            found[name] = implicit_reward.rewards(known[reference], setting.errors(model, policy))
    return {name: found[name] for name in trained}
