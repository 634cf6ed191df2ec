"""The work and memory of policies that learn from their own pictures: rollouts, decoding, rewards, training.

Estimated from a policy's settings (`Rolled.forwards`) and the counts of one row; sizes in bytes.
"""

import json
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.config.rollout import Rolled
from diffalign.planning.estimates import FP32, Memory

if TYPE_CHECKING:
    from diffalign.planning.counts import Counts

SIDE, PATCH = 224, 14
"""Pixels of an image and of a patch in a reward model whose config says neither: CLIP's."""


@dataclass(frozen=True)
class RewardModel:
    """A reward of a policy, by its weights' files."""

    name: str
    folder: Path | None
    """None of a reward without weights: a program, a service."""
    size: int
    """Bytes of its weights' files; 0 where there are none, or none yet."""
    tokens: int
    """Places that a picture takes in it."""

    @property
    def flop(self) -> float:
        """Returns the FLOPs of a picture's score, at most: two for each weight at each place."""
        return 2 * self.size / FP32 * self.tokens

    def told(self) -> str:
        """Returns the reward in words."""
        if self.folder is None:
            return f"{self.name} (no weights)"
        if not self.size:
            return f"{self.name} (nothing in {self.folder} yet: its memory and work aren't counted)"
        return f"{self.name} ({self.size / 1e9:.3g} GB)"


def models(policy: Rolled) -> list[RewardModel]:
    """Returns the rewards that a policy learns from."""
    found = []
    for name, values in policy.reward.items():
        folder = Path(str(values["path"])) if values.get("path") else None
        files = [*folder.rglob("*.safetensors")] if folder else []
        size = sum(file.stat().st_size for file in files)
        found.append(RewardModel(name, folder, size, tokens(folder / "config.json") if folder else 0))
    return found


def tokens(config: Path) -> int:
    """Returns how many places a picture takes in a vision transformer, by its config file; CLIP's without one."""
    read = json.loads(config.read_text()) if config.is_file() else {}
    vision = read.get("vision_config", read)
    side, patch = vision.get("image_size", SIDE), vision.get("patch_size", PATCH)
    return int(side // patch) ** 2 + 1


def flop(policy: Rolled, row: "Counts") -> float:
    """Returns the FLOPs of one picture in an optimizer step, from the counts of one row.

    A sweep's backward pass, of the input alone, takes as much as the forward.
    """
    plain, swept, trained = policy.forwards()
    rolled = policy.rollout.steps * policy.halves
    training = (plain - rolled + 2 * swept) * row.forward + trained * row.usual
    return training + sum(making(policy, row).values())


def making(policy: Rolled, found: "Counts") -> dict[str, float]:
    """Returns the FLOPs of making and scoring one picture, by what takes them."""
    score = sum(model.flop for model in models(policy)) * (3 if policy.graded else 1)  # backward is twice forward
    return {
        "rolling out": policy.rollout.steps * policy.halves * found.forward,
        "decoding": policy.scored * (found.decode_graded if policy.graded else found.decode),
        "rewards": policy.scored * score,
    }


def memory(plain: Memory, policy: Rolled, found: "Counts", micro_batch: int, processes: int) -> Memory:
    """Returns a training's memory on one device with what rollouts hold beside a `plain` training's.

    Of two graphs the larger counts: a micro-batch's rows, or its pictures' decoder; the rewards' own isn't known. A
    reward's gradient needs the states of a micro-batch's pictures, other methods those of a whole rollout.
    """
    pictures = micro_batch if policy.graded else policy.batch_size * policy.rollout.updates // processes
    graph = micro_batch * found.decode_kept if policy.graded else 0
    return replace(
        plain,
        activations=max(plain.activations, graph),
        old=plain.gradients if policy.keeps_old else 0,
        vae=FP32 * found.vae,
        rewards=sum(model.size for model in models(policy)),
        trajectories=pictures * (policy.rollout.steps + 1) * prod(found.latent) * FP32,
    )


def told(policy: Rolled, found: "Counts") -> str:
    """Returns in words, from the counts of one picture, what takes its work, and the rewards."""
    parts = making(policy, found)
    parts["training"] = found.usual - sum(parts.values())
    shares = ", ".join(f"{name} {part / found.usual:.0%}" for name, part in parts.items() if part)
    return f"{shares}; rewards: {', '.join(model.told() for model in models(policy))}"
