"""Measures a policy on fixed held-out draws: winners' and losers' errors against the reference's.

Little variance: the training batches' own figures are of other pairs, other t and other noise at every step; here they
are the same ones each time, so a small change shows. Legend: N pairs, K draws a pair, B pairs in a forward; errors
[N, K, 2] are the winner's and the loser's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.data.batches.pair_batches import PairBatch, PairSource
from diffalign.data.batches.pairs import Pair
from diffalign.diffusion.rng import PairDraw, probe_draw
from diffalign.evaluation import statistics
from diffalign.monitoring.curve import BINS, Point
from diffalign.reference.reference import Reference

if TYPE_CHECKING:
    from accelerate import Accelerator

Floats = NDArray[np.float64]
RESAMPLES, CONFIDENCE = 1000, 0.95
FLAT = 0.05
"""A pair is saturated where the loss falls with its logit at less than this rate; the sigmoid's is 1 at most."""


@dataclass(frozen=True)
class Draws:
    """The fixed draws, and which of them are this rank's; every rank makes equally many forwards."""

    source: PairSource
    pairs: Sequence[Pair]
    count: int
    """K."""
    seed: int

    @cached_property
    def t(self) -> Floats:
        """Returns the timesteps [N, K]."""
        return np.array([[self.at(n, k).t for k in range(self.count)] for n in range(len(self.pairs))], np.float64)

    @property
    def edges(self) -> list[float]:
        """Returns the inner edges of the BINS, in t."""
        times = self.source.times
        return [times.process.time(times.low + i / BINS * (times.high - times.low)) for i in range(1, BINS)]

    def at(self, n: int, k: int) -> PairDraw:
        """Returns the k-th draw of the n-th pair."""
        return probe_draw(self.seed, self.pairs[n].pair_id, k, self.count, self.source.shape, self.source.times)

    def share(self) -> list[range]:
        """Returns this rank's micro-batches, of one size, as slots of the N * K draws; from N * K on it's padding."""
        each = -(-len(self.pairs) * self.count // self.source.world)
        parts = -(-each // self.source.micro_batch_size)
        size = -(-each // parts)
        first = self.source.rank * parts * size
        return [range(first + i * size, first + (i + 1) * size) for i in range(parts)]

    def batch(self, slots: Sequence[int]) -> PairBatch:
        """Returns the batch of some slots; padding repeats the first draws."""
        places = [divmod(slot % (len(self.pairs) * self.count), self.count) for slot in slots]
        return self.source.drawn([self.pairs[n] for n, _ in places], [self.at(n, k) for n, k in places])


@torch.no_grad()
def measure(draws: Draws, errors: Reference, accelerator: "Accelerator", first: bool = False) -> Floats:
    """Measures errors [N, K, 2] at all draws, by all ranks together; `first`: at each rank's first micro-batch only."""
    N, K = len(draws.pairs), draws.count
    sums = torch.zeros(N * K, 3, dtype=torch.float64, device=accelerator.device)
    for slots in draws.share()[: 1 if first else None]:
        with accelerator.autocast():
            found = torch.stack(errors(draws.batch(slots)), dim=1)
        kept = [slot for slot in slots if slot < N * K]
        sums[kept, :2] = found[: len(kept)].double()
        sums[kept, 2] = 1
    result: Floats = accelerator.reduce(sums, "sum").cpu().numpy()
    return np.where(result[:, 2:] > 0, result[:, :2], np.nan).reshape(N, K, 2)


def describe(
    reference: Floats,
    policy: Floats,
    prompts: Sequence[str],
    t: Floats,
    edges: Sequence[float],
    pull: Callable[[Tensor], Tensor] | None = None,
) -> Point:
    """Returns the figures of a probe: a policy's errors [N, K, 2] beside the reference's at the same draws.

    `prompts` [N] are the clusters of all intervals and standard errors (`_se`); t [N, K]; `pull` says at which rate
    the loss falls with a pair's margin. Changes are policy minus reference, below zero is better; relative ones are
    sum(change) / sum(reference's error). `t1` to `t5` are the bins of t. The accuracy is of pairs, over their draws.
    """
    broken = float(1 - np.isfinite(policy).mean())
    if broken:
        return {"broken": broken}
    change = policy - reference
    margin = change[..., 1] - change[..., 0]
    where = np.repeat(np.array(list(prompts), object), t.shape[1]).tolist()
    accuracy = statistics.rate(
        statistics.outcomes(margin.mean(axis=1), np.zeros(len(margin))),
        prompts,
        resamples=RESAMPLES,
        confidence=CONFIDENCE,
    )
    point: dict[str, float | None] = {
        "broken": broken,
        "accuracy": accuracy.rate,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
    }
    ones = np.ones(margin.size)
    point |= with_error("margin", margin.ravel(), ones, where)
    bins = np.searchsorted(np.array(edges), t.ravel(), side="right")
    for i, name in enumerate(("winner", "loser")):
        changed, before = change[..., i].ravel(), reference[..., i].ravel()
        point |= with_error(f"{name}_change", changed, ones, where)
        point |= with_error(f"{name}_relative", changed, before, where)
        for j in sorted(set(bins.tolist())):
            inside = np.flatnonzero(bins == j)
            names = [where[n] for n in inside]
            point |= with_error(f"t{j + 1}/{name}_relative", changed[inside], before[inside], names)
    if pull is not None:
        point["saturated"] = float((pull(torch.from_numpy(margin)) < FLAT).double().mean())
    return {name: value for name, value in point.items() if value is not None and np.isfinite(value)}


def with_error(name: str, numerators: Floats, denominators: Floats, clusters: Sequence[str]) -> dict[str, float]:
    """Returns the ratio of two sums and its standard error, named."""
    value, error = statistics.ratio(numerators, denominators, clusters)
    return {name: value, f"{name}_se": error}


def drift(first: Floats, again: Floats) -> float:
    """Returns by how much errors [N, K, 2] that should be equal differ: sum |again - first| / sum first."""
    known = ~np.isnan(again)
    return float(np.abs(again[known] - first[known]).sum() / first[known].sum())
