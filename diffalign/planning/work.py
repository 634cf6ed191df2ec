"""Counts a training's work on the meta device: one step of the real method on one pair, without weights or memory."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffalign.config.params import Params
from diffalign.config.rollout import Rolled
from diffalign.config.training import Trained
from diffalign.data.batches.pair_batches import PairBatch
from diffalign.data.batches.unpaired_batches import CuratedSource
from diffalign.diffusion.losses import errors
from diffalign.methods import method as methods
from diffalign.methods.method import Old, Source
from diffalign.models import family as families
from diffalign.models import init_files, lora_files, rater_tokens
from diffalign.models.policies import add_lora
from diffalign.planning import flops, known_models, meta_models
from diffalign.planning.counts import Counts
from diffalign.planning.estimates import Shape
from diffalign.planning.flops import traced
from diffalign.planning.meta_models import Skeleton
from diffalign.reference.reference import Reference, cached, live


def counted(params: Params, name: str, policy: Trained) -> Counts:
    """Counts a policy's work on one pair, without weights or memory."""
    skeleton = policy_skeleton(params, policy.init)
    prepare(name, skeleton, policy, params.model.family)
    found = of_skeleton(skeleton, policy)
    return decoding(params, found) if isinstance(policy, Rolled) else found


def decoding(params: Params, found: Counts) -> Counts:
    """Adds the work and the sizes of the model's decoder, which makes the pictures of rollouts."""
    family, base = params.model.family, Path(params.model.path)
    with known_models.folder(family, base) as folder:
        model: Any = families.load(family, folder, ("vae",), "meta")
    x0 = torch.empty(1, *found.latent, device="meta")
    with torch.no_grad():
        plain = flops.counted(lambda: model.decode(x0))
    graded, kept = traced(lambda: model.decode(x0.requires_grad_()).sum(), model.vae)
    numbers = sum(p.numel() for p in model.vae.parameters())
    return replace(found, decode=plain, decode_graded=graded, decode_kept=kept, vae=numbers)


def of_skeleton(skeleton: Skeleton, policy: Trained) -> Counts:
    """Counts the work of a pair on a prepared skeleton, in a step that isn't logged and in one that is."""
    (usual, kept), (logged, _) = (traced(micro_step(skeleton, policy, log), skeleton.network) for log in (False, True))
    parameters = dict(skeleton.network.named_parameters())
    vector = parameters.pop(rater_tokens.WEIGHT, None)
    shapes = Counter(tuple(p.shape) for p in parameters.values() if p.requires_grad)
    x = torch.empty(1, *skeleton.latent, device="meta")
    with torch.no_grad():
        forward = flops.counted(lambda: skeleton.denoise(x, torch.zeros(1, dtype=torch.long, device="meta"), {}))
    return Counts(
        usual=usual,
        logged=logged,
        forward=forward,
        kept=kept,
        weights=sum(p.numel() for p in parameters.values()),
        trained=[(list(shape), number) for shape, number in shapes.items()],
        latent=list(skeleton.latent),
        prompt=[list(shape) for shape in skeleton.prompt.values()],
        vector=0 if vector is None else vector.numel(),
    )


def policy_skeleton(params: Params, init: str) -> Skeleton:
    """Returns the skeleton of the denoiser that a policy with this init trains; UserError for a LoRA that isn't one."""
    family, base = params.model.family, params.model.path
    with known_models.folder(family, Path(base)) as folder:
        root = known_models.denoiser_root(family, base, init)
        root = folder if root == Path(base) else root
        found = meta_models.skeleton(family, folder, root, params.precompute.resolution)
        if file := init_files.lora(family, init):
            lora_files.read(file, found.model, families.denoiser_folder(family, folder))
    return found


def prepare(name: str, skeleton: Skeleton, policy: Trained, family: str) -> None:
    """Prepares the skeleton for training, in place: gradients, LoRA, a vector, gradient checkpointing as in training.

    All raters' vectors are a single one here: a row's work is the same with any number of them. Where vectors alone are
    trained, no other weight asks for a gradient, so the backward pass that is counted is the one that runs: from the
    output through the activations down to the first layer that attends to the text, whose tokens carry the vector.
    """
    network: Any = skeleton.network
    tokens = policy.rater_tokens
    network.requires_grad_(policy.adapter == "full" and not (tokens and tokens.only)).train()
    if (lora := policy.lora) is not None:
        targets, key = lora.targets or families.find(family).lora_targets, f"policies.{name}.lora.targets"
        add_lora(network, targets, lora.rank, lora.alpha, policy.seed, key)
    if tokens:
        vector = torch.empty(1, rater_tokens.width(skeleton.model), device="meta")
        rater_tokens.attach(network, rater_tokens.RaterTokens(("any",), vector))
    if policy.gradient_checkpointing:
        network.enable_gradient_checkpointing()


def micro_step(skeleton: Skeleton, policy: Trained, log: bool) -> Callable[[], Tensor]:
    """Returns a function that computes the real method's loss on one pair, on the meta device.

    Of a method on rollouts, that of one row: the network's output for an image at one noise level.
    """
    if isinstance(policy, Rolled):
        x, t = torch.empty(1, *skeleton.latent, device="meta"), torch.zeros(1, dtype=torch.long, device="meta")
        return lambda: errors(skeleton.denoise(x, t, {}), x).sum()
    method = methods.load(policy, PlannedContext(skeleton.latent, policy.rater_tokens is not None))
    reference = make_reference(skeleton, policy)

    def loss() -> Tensor:
        (batch,) = method.batches(skeleton.denoise, reference, 0)
        return method.loss(skeleton.denoise, reference, batch, log)[0]

    return loss


@dataclass(frozen=True)
class PlannedContext:
    """A run that offers a method one pair on the meta device, whatever source it asks for."""

    latent: Shape
    raters: bool = False
    """Whether the pair says whose answer it is."""

    def source(self, kind: type[Source], passes: int = 1) -> Source:
        """Returns a stand-in for the source, with the attributes that methods use."""
        planned: Any = PlannedSource(self.latent, rows=1 if kind is CuratedSource else 2, raters=self.raters)
        found: Source = planned
        return found

    def old(self) -> Old:
        """Raises AssertionError: a method that keeps old weights isn't counted on one pair."""
        raise AssertionError("a method that keeps old weights isn't counted on one pair")


@dataclass(frozen=True)
class PlannedSource:
    """A source of one pair, or image, on the meta device, with the attributes that methods use."""

    latent: Shape
    batch_size: int = 1
    device: str = "meta"
    T: int = 1000
    """Timesteps of the process; any number will do: no FLOP depends on it."""
    rows: int = 2
    raters: bool = False
    """Whether its condition names each row's rater."""

    @property
    def process(self) -> "PlannedSource":
        """Returns itself as the process: methods read its T only."""
        return self

    @property
    def elements(self) -> int:
        """Returns the number of elements C * h * w of a latent."""
        return math.prod(self.latent)

    def at(self, step: int) -> Iterator[PairBatch]:
        """Yields the step's only micro-batch."""
        x, one = torch.empty(self.rows, *self.latent, device="meta"), torch.empty(1, device="meta")
        t = torch.zeros(self.rows, dtype=torch.long, device="meta")
        yield PairBatch(x, t, x, {rater_tokens.COND: t} if self.raters else {}, one, one, error_ref=(one, one))


def make_reference(skeleton: Skeleton, policy: Trained) -> Reference | None:
    """Returns a reference with the cost of the policy's own, told of no rater; None where the policy has none."""
    kind = policy.reference
    if kind == "none":
        return None
    if kind == "cached":
        return cached
    if policy.adapter == "full":
        return live(rater_tokens.without(skeleton.denoise))

    def adapters_off(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        network: Any = skeleton.network
        network.disable_adapters()
        try:
            return skeleton.denoise(x_t, t, cond)
        finally:
            network.enable_adapters()

    return live(rater_tokens.without(adapters_off))
