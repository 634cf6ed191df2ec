"""The work and the sizes of training on one pair, counted once for each network and setting.

Counting takes from seconds to half a minute (SD XL), so the presets' answers come with the package
(`known_counts.json`, written by `python -m tools.known_counts --write`), and others are kept in `runs/plan.sqlite`.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.core import code
from diffalign.core.files import canonical_json
from diffalign.core.kept import Kept
from diffalign.planning import known_models, rollouts

ROW = "row"
"""Stands for all methods on rollouts: what is counted is one row of theirs."""
KEPT, SHIPPED = Path("runs/plan.sqlite"), Path(__file__).with_name("known_counts.json")


@dataclass(frozen=True)
class Counts:
    """What a policy's training needs of a pair, whatever its batch and its machine."""

    usual: int
    """FLOPs of a pair with its backward pass in a step that isn't logged."""
    logged: int
    """In one that is."""
    forward: int
    """FLOPs of the denoiser's forward pass for one image."""
    kept: int
    """Bytes that the graph of a pair keeps for the backward pass, in fp32."""
    weights: int
    """Numbers of the denoiser, adapters included."""
    trained: list[tuple[list[int], int]]
    """The shapes of the trained tensors but for raters' vectors, and how many have each."""
    latent: list[int]
    prompt: list[list[int]]
    """The shapes of a prompt's tensors."""
    decode: int = 0
    """FLOPs of the VAE's decoder for one picture, where a policy makes its own."""
    decode_graded: int = 0
    """With a backward pass to the latent."""
    decode_kept: int = 0
    """Bytes that its graph keeps, in fp32."""
    vae: int = 0
    """Numbers of the VAE's weights."""
    vector: int = 0
    """Numbers of a rater's vector, where the policy has one for each rater: the others leave them out."""

    def flop(self, log_every: int) -> float:
        """Returns the FLOPs of a pair, logged steps averaged in."""
        return self.usual + (self.logged - self.usual) / log_every

    def shapes(self) -> list[tuple[int, ...]]:
        """Returns the shapes of all trained tensors."""
        return [tuple(shape) for shape, number in self.trained for _ in range(number)]

    def with_vectors(self, raters: int) -> "Counts":
        """Returns these counts with raters' vectors, one tensor, among the weights and what is trained."""
        shape = [raters, self.vector]
        return replace(self, weights=self.weights + prod(shape), trained=[*self.trained, (shape, 1)])


def of_policy(params: Params, name: str, policy: Trained) -> Counts:
    """Returns a policy's counts, of a pair, or of a picture that it makes itself."""
    found = asked_for(params, name, policy)
    return of_rollouts(found, policy) if isinstance(policy, Rolled) else found


def of_rollouts(row: Counts, policy: Rolled) -> Counts:
    """Returns the counts of a picture that a policy makes itself, from those of one row of training.

    Decoding and scoring are counted, too.
    """
    flop = round(rollouts.flop(policy, row))
    return replace(row, usual=flop, logged=flop, kept=row.kept * policy.trained_halves)


def asked_for(params: Params, name: str, policy: Trained) -> Counts:
    """Returns counts that were shipped or kept, else counts now, which is said on stderr."""
    asked = question(params, policy)
    if (found := shipped().get(canonical_json(asked))) is not None:
        return Counts(**found)
    key = [asked, made_by()]
    (kept,) = Kept(KEPT).get([key])
    if kept is None:
        sys.stderr.write(f"plan {name}: counts the work of a step without weights; half a minute for a large model\n")
        from diffalign.planning import work  # PyTorch and diffusers, which take seconds to import

        kept = asdict(work.counted(params, name, policy))
        Kept(KEPT).put([(key, kept)])
    return Counts(**kept)


def whole(params: Params, name: str) -> float:
    """Returns the FLOPs of a policy's whole training; 0 where it has none."""
    policy = params.policies[name]
    if not isinstance(policy, Trained):
        return 0.0
    found = of_policy(params, name, policy)
    return found.flop(params.runtime.log_every) * policy.steps * policy.batch_size


def question(params: Params, policy: Trained) -> dict[str, Any]:
    """Returns what a policy's counts depend on: the network, the image's size, what is trained, by what method."""
    family, lora, tokens = params.model.family, policy.lora, policy.rater_tokens
    own = {} if isinstance(policy, Rolled) else policy.of_method()
    root = known_models.denoiser_root(family, params.model.path, policy.init)
    return {
        "family": family,
        "model": known_models.identity(family, Path(params.model.path), root),
        "resolution": params.precompute.resolution,
        "method": ROW if isinstance(policy, Rolled) else policy.method,
        "reference": policy.reference,
        "checkpointing": policy.gradient_checkpointing,
        "lora": [lora.rank, lora.targets] if lora else None,
        "raters_alone": tokens.only if tokens else None,
        "own": {key: value if isinstance(value, str) else value is not None for key, value in own.items()},
    }


@cache
def shipped() -> dict[str, dict[str, Any]]:
    """Returns the counts that come with the package, by question."""
    found = json.loads(SHIPPED.read_text()) if SHIPPED.exists() else []
    return {canonical_json(one["question"]): one["counts"] for one in found}


@cache
def made_by() -> list[str]:
    """Returns what counted: the code of training and the versions of the packages that it calls."""
    return [code.code_hash("train"), *(version(name) for name in ("torch", "diffusers", "peft"))]
