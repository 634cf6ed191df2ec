"""The state of a training process: the policy, its reference and the optimizer, spread over processes and devices."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.diffusion.process import Denoise
from diffalign.models import family as families
from diffalign.models import inits, rater_tokens
from diffalign.models.policies import add_lora
from diffalign.reference.reference import Reference, cached, live
from diffalign.runtime.parallel import STRATEGIES, Parallel, whole
from diffalign.runtime.signals import StopRequest
from diffalign.training import ema
from diffalign.training.ema import EMA
from diffalign.training.optimizers import OPTIMIZERS
from diffalign.training.spec import Spec

if TYPE_CHECKING:
    from accelerate import Accelerator


PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first one may be writing tens of GB to a slow disk. One that fails ends
all others at once (`launch.launch`).
"""


@dataclass
class Skips:
    """Counts optimizer steps left out because a gradient was no number or far too large."""

    total: int = 0
    in_a_row: int = 0


@dataclass
class Learner:
    """Holds the model with the policy's denoiser, the reference if there is one, and the optimizer."""

    accelerator: "Accelerator"
    model: families.Family
    denoiser: nn.Module
    """The policy, spread over the processes there are."""
    parallel: Parallel
    reference: Reference | None
    optimizer: torch.optim.Optimizer
    trainable: dict[str, nn.Parameter]
    average: EMA | None
    """The moving average of `trainable`, where the policy has one."""
    skips: Skips
    stop: StopRequest
    old: "Old | None" = None
    """The policy's weights at an earlier step, where the method has a use for them."""


@dataclass(frozen=True)
class Old:
    """Keeps a copy of the policy's weights as they were (`methods.method.Old`); a share where weights are sharded."""

    weights: dict[str, nn.Parameter]
    copies: dict[str, Tensor]

    @torch.no_grad()
    def keep(self, share: float = 0.0) -> None:
        """Moves the copies to the present weights: they keep `share` of what they were."""
        for name, copy in self.copies.items():
            copy.lerp_(self.weights[name].detach(), 1 - share) if share else copy.copy_(self.weights[name])

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Gives the policy the old weights while the block runs, then the present ones, bit for bit."""
        exchange(self.weights, self.copies)
        try:
            yield
        finally:
            exchange(self.weights, self.copies)


def keep_old(learner: Learner) -> Old:
    """Returns a learner's copy of its weights, begun at the first call."""
    if learner.old is None:
        copies = {name: weight.detach().clone() for name, weight in learner.trainable.items()}
        learner.old = Old(learner.trainable, copies)
    return learner.old


def make_accelerator(device: str, processes: int, precision: str) -> "Accelerator":
    """Returns the distributed context; raises RuntimeError unless it has the number of processes that was asked for."""
    from accelerate import Accelerator  # takes seconds, and only workers need it
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # no second copy of gradients
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    if accelerator.num_processes != processes:
        raise RuntimeError(f"asked for {processes} processes, got {accelerator.num_processes}")
    return accelerator


def build(spec: Spec, accelerator: "Accelerator", strategy: str = "ddp", compiled: bool = False) -> Learner:
    """Loads the policy at its init, its reference, and the optimizer; spreads them over the processes there are."""
    policy, parallel = spec.policy, STRATEGIES[strategy](accelerator, compiled)
    if strategy == "fsdp" and policy.optimizer != "adamw":
        raise UserError(
            f"policies.{spec.name}.optimizer: expected adamw, since with DIFFALIGN_PARALLEL=fsdp each process has a "
            f"share of a weight only, got {policy.optimizer!r}; fsdp shares AdamW's moments, too"
        )
    model = load_trainable(spec, accelerator.device)
    denoiser: Any = model.denoiser
    if policy.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    denoiser.eval()  # no dropout: policy and reference are one function at step 0; checkpointing works all the same
    model.denoiser = parallel.policy(denoiser)
    reference = make_reference(spec, model, denoiser, parallel)
    trainable = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(policy, trainable)
    return Learner(
        accelerator=accelerator,
        model=model,
        denoiser=model.denoiser,
        parallel=parallel,
        reference=reference,
        optimizer=optimizer,
        trainable=trainable,
        average=None if policy.ema is None else ema.start(dict(trainable), policy.ema),
        skips=Skips(),
        stop=StopRequest(),
    )


def make_optimizer(policy: Trained, trainable: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimizer; raters' vectors are a group of their own, the last, without weight decay.

    So a vector whose rater had no pair in a step is moved by its moments alone.
    """
    tokens = [p for name, p in trainable.items() if name == rater_tokens.WEIGHT]
    others = [p for name, p in trainable.items() if name != rater_tokens.WEIGHT]
    make, (first, *rest) = OPTIMIZERS[policy.optimizer], rates(policy)
    if not others:
        return make(tokens, first, 0.0)
    optimizer = make(others, first, policy.weight_decay)
    if tokens:
        optimizer.add_param_group({"params": tokens, "lr": rest[0], "weight_decay": 0.0})
    return optimizer


def rates(policy: Trained) -> list[float]:
    """Returns the peak learning rate of each of the optimizer's groups."""
    tokens = policy.rater_tokens
    if tokens is None:
        return [policy.lr]
    return [tokens.lr] if tokens.only else [policy.lr, tokens.lr]


def dropout(network: nn.Module) -> float:
    """Returns the largest probability of any dropout in a network; 0 without one."""
    kinds = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.FeatureAlphaDropout
    return max((module.p for module in network.modules() if isinstance(module, kinds)), default=0.0)


def make_reference(spec: Spec, model: families.Family, denoiser: nn.Module, parallel: Parallel) -> Reference | None:
    """Returns the reference that the policy's `reference` asks for."""
    kind = spec.policy.reference
    if kind == "none":
        return None
    return cached if kind == "cached" else live_reference(spec, model, denoiser, parallel)


def live_reference(spec: Spec, model: families.Family, denoiser: nn.Module, parallel: Parallel) -> Reference:
    """Returns the reference as a network: the policy's with its adapters off, or a frozen copy of what it's held to."""
    if spec.policy.adapter == "lora" and spec.policy.reference_init is None:
        return live(rater_tokens.without(without_adapter(denoiser, model)))
    frozen = load_init(spec, parallel.accelerator.device, spec.policy.held_to)
    frozen.denoiser = parallel.frozen(frozen.denoiser)
    return live(rater_tokens.without(frozen.denoise))


def load_init(spec: Spec, device: torch.device, init: str | None = None) -> families.Family:
    """Loads an init's denoiser, the policy's if none is named, a LoRA merged in; no other part of the model."""
    model = families.load(spec.family, spec.model, (), device)
    inits.load_denoiser(model, spec.family, spec.model, init or spec.policy.init)
    return model


def load_trainable(spec: Spec, device: torch.device) -> families.Family:
    """Loads the initial model, adds LoRA and raters' vectors if configured, and marks the trainable weights."""
    model, policy = load_init(spec, device), spec.policy
    if (lora := policy.lora) is not None:
        targets, key = lora.targets or model.lora_targets, f"policies.{spec.name}.lora.targets"
        add_lora(model.denoiser, targets, lora.rank, lora.alpha, policy.seed, key)
    else:
        model.denoiser.requires_grad_(policy.rater_tokens is None or not policy.rater_tokens.only)
    if policy.rater_tokens is not None:
        rater_tokens.attach(model.denoiser, rater_tokens.start(model, spec.token_rows, Path(policy.init)))
    return model


def without_adapter(denoiser: Any, model: families.Family) -> Denoise:
    """Returns the reference of a LoRA policy: its network with the adapters off."""

    def reference(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        wrapped, model.denoiser = model.denoiser, denoiser
        denoiser.disable_adapters()
        try:
            return model.denoise(x_t, t, cond)
        finally:
            denoiser.enable_adapters()
            model.denoiser = wrapped

    return reference


def published(learner: Learner) -> dict[str, Tensor]:
    """Returns the weights that are published, or their moving average, by name; this process's shares of them."""
    return learner.average.averages if learner.average else dict(learner.trainable)


def published_weights(learner: Learner) -> dict[str, Tensor]:
    """Returns the weights that are published, in full on the first process: all must call this."""
    return whole(published(learner), learner.accelerator.is_main_process)


@contextmanager
def as_published(learner: Learner) -> Iterator[None]:
    """Gives the denoiser the weights that would be published while the block runs, then those that train again."""
    swap(learner)
    try:
        yield
    finally:
        swap(learner)


@torch.no_grad()
def swap(learner: Learner) -> None:
    """Exchanges the weights with their moving average, if there's one."""
    if learner.average:
        exchange(learner.trainable, learner.average.averages)


@torch.no_grad()
def exchange(weights: dict[str, nn.Parameter], others: dict[str, Tensor]) -> None:
    """Exchanges weights with tensors of their names: bit for bit, one at a time."""
    for name, other in others.items():
        held = weights[name].detach().clone()
        weights[name].copy_(other)
        other.copy_(held)


@torch.no_grad()
def model_with(spec: Spec, weights: dict[str, Tensor]) -> families.Family:
    """Returns the policy's model on the CPU, its denoiser not spread, with trained weights."""
    model = load_trainable(spec, torch.device("cpu"))
    parameters = dict(model.denoiser.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)
    model.denoiser.eval()
    return model
