"""One optimizer step: the gradient of the global batch, micro-batch by micro-batch, and whether it's taken."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from diffalign.config.training import Trained
from diffalign.core.errors import UserError
from diffalign.methods import method as methods
from diffalign.runtime.parallel import clip_gradients
from diffalign.training.learner import Learner, Skips, rates
from diffalign.training.spec import Spec


def optimizer_step(
    learner: Learner, method: methods.Method, policy: Trained, step: int, logging: bool
) -> dict[str, float] | None:
    """Takes one step on the global batch; returns the averages over it that are logged, None unless `logging`.

    The loss is the sum over the global batch divided by its size, so that neither the number of processes nor the
    micro-batch enters. Gradients are averaged over processes, hence their number as a factor.
    """
    size, world = policy.batch_size, learner.accelerator.num_processes
    warm = min(1.0, (step + 1) / max(policy.warmup_steps, 1))
    for group, peak in zip(learner.optimizer.param_groups, rates(policy), strict=True):
        group["lr"] = peak * warm
    sums: dict[str, Tensor] = {}
    batches = within(learner.accelerator.autocast, method.batches(learner.model.denoise, learner.reference, step))
    for batch, last in with_last(batches):
        with learner.parallel.micro_step(learner.denoiser, last), learner.accelerator.autocast():
            total, logs = method.loss(learner.model.denoise, learner.reference, batch, logging)
            learner.accelerator.backward(total * world / size)
        for name, value in {"loss": total.detach(), **logs}.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
    clipped = clip_gradients(learner.trainable.values(), policy.max_grad_norm)
    norm = learner.stop.agree(learner.accelerator, clipped)  # here the host waits for the device, once a step
    if norm <= policy.skip_grad_norm:  # not so for NaN; the gradients are averages over all ranks, so all agree
        learner.optimizer.step()
        if learner.average:
            learner.average.update(dict(learner.trainable))
        learner.skips.in_a_row = 0
    else:
        learner.skips.total += 1
        learner.skips.in_a_row += 1
    buckets = isinstance(learner.denoiser, DistributedDataParallel)  # DDP's are the gradients: none beside them
    learner.optimizer.zero_grad(set_to_none=not buckets)
    if not logging:
        return None
    summed = learner.accelerator.reduce(torch.stack(list(sums.values())), "sum") / size
    averages = dict(zip(sums, summed.tolist(), strict=True))
    return {**averages, "lr": rates(policy)[0] * warm, "grad_norm": norm}


def within(context: Callable[[], AbstractContextManager[Any]], items: Iterable[Any]) -> Iterator[Any]:
    """Yields the items, each made within a context of its own, and used outside of it.

    A method may need forwards to make its batches, in the loss's precision.
    """
    ahead = iter(items)
    while True:
        with context():
            try:
                item = next(ahead)
            except StopIteration:
                return
        yield item


def with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yields each item, and whether it is the last one."""
    ahead = iter(items)
    item = next(ahead)
    for following in ahead:
        yield item, False
        item = following
    yield item, True


def check_skips(spec: Spec, skips: Skips, step: int) -> None:
    """Raises UserError where as many steps in a row were skipped as the policy's `max_skips` says."""
    if skips.in_a_row >= spec.policy.max_skips:
        raise UserError(
            f"training of {spec.name} diverged: {skips.in_a_row} steps in a row, the last of them step {step}, had a "
            f"gradient that was no number or of a norm beyond skip_grad_norm {spec.policy.skip_grad_norm:g}. Lower "
            f"policies.{spec.name}.lr, or raise warmup_steps."
        )
