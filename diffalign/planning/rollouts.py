"""The work and memory of policies that learn from their own pictures: rollouts, decoding, rewards, training.

Estimated from a policy's settings (`Rolled.forwards`) and the counts of one row; sizes in bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.config.rollout import Rolled
from diffalign.planning.estimates import FP32, Memory

if TYPE_CHECKING:
    from diffalign.planning.counts import Counts

SIDE, PATCH = 224, 14
"""Pixels of an image and of a patch in a reward model whose config says neither: CLIP's."""
TOWER = ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size", "hidden_act")
"""The keys of a CLIP's vision_config that decide what its graph keeps."""


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
    kept: int | None
    """Numbers that its graph keeps of a picture where a gradient goes through it; None: it's no CLIP."""

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

    def told_graded(self) -> str:
        """Returns the reward in words, and whether its graph isn't counted."""
        lacking = self.size and self.kept is None
        return self.told() + (" without its graph's memory, which isn't known" if lacking else "")


def models(policy: Rolled) -> list[RewardModel]:
    """Returns the rewards that a policy learns from."""
    found = []
    for name, values in policy.reward.items():
        folder = Path(str(values["path"])) if values.get("path") else None
        files = [*folder.rglob("*.safetensors")] if folder else []
        size = sum(file.stat().st_size for file in files)
        tower = vision(folder / "config.json") if folder else {}
        found.append(RewardModel(name, folder, size, tokens(tower) if folder else 0, kept(tower)))
    return found


def vision(config: Path) -> Mapping[str, Any]:
    """Returns what a reward model's config file says of its image tower; nothing where there is none."""
    read: dict[str, Any] = json.loads(config.read_text()) if config.is_file() else {}
    tower: Mapping[str, Any] = read.get("vision_config", read)
    return tower


def tokens(tower: Mapping[str, Any]) -> int:
    """Returns how many places a picture takes in an image tower; CLIP's where its config says nothing of it."""
    return int(tower.get("image_size", SIDE) // tower.get("patch_size", PATCH)) ** 2 + 1


def kept(tower: Mapping[str, Any]) -> int | None:
    """Returns how many numbers the graph of a frozen CLIP's image tower keeps of a picture; None where it's another.

    Its weights being frozen, linear maps keep nothing. A layer keeps its two norms' inputs, query, key, value and
    output of attention, each tokens x width, and its activation's input, tokens x inner width, twice with quick_gelu,
    whose sigmoid is another; then the first and the last norm's input, and the resized picture.
    """
    if not all(key in tower for key in TOWER):
        return None
    width, inner, layers, side = (tower[key] for key in TOWER[:4])
    inner *= 2 if tower["hidden_act"] == "quick_gelu" else 1
    return int(tokens(tower) * (layers * (6 * width + inner) + 2 * width) + 3 * side**2)


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


def memory(
    plain: Memory, policy: Rolled, found: "Counts", micro_batch: int, processes: int, precision: int = FP32
) -> Memory:
    """Returns a training's memory on one device with what rollouts hold beside a `plain` training's.

    Of two graphs the larger counts: a micro-batch's rows, or its pictures' decoder with the rewards behind it, whose
    numbers have `precision` bytes. A reward's gradient needs the states of a micro-batch's pictures, other methods
    those of a whole rollout.
    """
    pictures = micro_batch if policy.graded else policy.batch_size * policy.rollout.updates // processes
    behind = precision * sum(model.kept or 0 for model in models(policy))
    graph = micro_batch * (found.decode_kept + behind) if policy.graded else 0
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
    words = [model.told_graded() if policy.graded else model.told() for model in models(policy)]
    shares = ", ".join(f"{name} {part / found.usual:.0%}" for name, part in parts.items() if part)
    return f"{shares}; rewards: {', '.join(words)}"
