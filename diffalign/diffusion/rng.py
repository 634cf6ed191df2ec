"""The random draws of training and of the implicit reward, as functions of where they are used.

No generator has a state that a checkpoint would have to keep, and no rank's draws depend on how many ranks there are:
(seed, step, slot in the global batch) gives the draw, or, where the reference's errors at it are kept, (seed, pair, k).
Made on the CPU, so that every device gets the same.
Shapes: C latent channels, h w latent height and width.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffalign.diffusion.timesteps import Times

# Each use has its own stream, so that equal seeds don't make equal numbers in different places.
ORDER, TRAIN, REWARD, NOISE, IMAGE_ORDER, IMAGE, REFERENCE, CHECK, PROBE, STEP = range(10)
ROLLOUT, ROLLOUT_STEP, ROLLOUT_PROMPT, TRAINED_MOVES = range(10, 14)
WINDOW, RENOISE = 20, 21
PERTURBATION, RATER = 22, 23
FRESH = 30


def generator(stream: int, seed: int, *where: int) -> np.random.Generator:
    """Returns a counter-based generator that is a function of its arguments, integers >= 0."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([stream, seed, *where])))


def text_seed(text: str) -> int:
    """Returns a text as an integer for a generator: the first 64 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Returns standard normal noise, float32, on the CPU."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


@dataclass(frozen=True)
class PairDraw:
    """The random numbers of one training on one pair."""

    t: int | float
    """Timestep in the process's unit, shared by winner and loser."""
    eps: Tensor
    """Noise [C, h, w], shared by winner and loser."""
    posterior_w: Tensor
    """Noise [C, h, w] of the VAE's posterior for the winner's latents."""
    posterior_l: Tensor
    """Noise [C, h, w] of the VAE's posterior for the loser's latents."""
    flip_w: bool
    """Whether the winner is mirrored."""
    flip_l: bool
    """Whether the loser is mirrored."""
    drop: bool
    """Whether the prompt is replaced by the empty one."""


def pair_draw(
    seed: int, step: int, slot: int, shape: tuple[int, ...], times: Times, flip: str, drop: float
) -> PairDraw:
    """Returns the draw of one slot of one step's global batch.

    `shape` is (C, h, w); `flip` is none, pair (both mirrored together) or independent (the official code's); `drop` is
    the probability in [0, 1] of the empty prompt.
    """
    rng = generator(TRAIN, seed, step, slot)
    return _pair_draw(rng, times.draw(rng, slot), shape, flip, drop)


def rater_dropped(seed: int, step: int, slot: int, drop: float) -> bool:
    """Tells whether the pair in a slot of a step is trained as nobody's, with probability `drop`."""
    return drop > 0 and bool(generator(RATER, seed, step, slot).random() < drop)


@dataclass(frozen=True)
class FixedDraws:
    """`count` draws a pair, used in turn, one an epoch: functions of (seed, pair, k), not of order and batches.

    `swapped`: the pairs' winners and losers are exchanged; each image keeps its own part of the draw.
    """

    seed: int
    count: int
    swapped: bool = False

    def at(self, pair_id: str, epoch: int, shape: tuple[int, ...], times: Times, flip: str, drop: float) -> PairDraw:
        """Returns the draw of a pair in an epoch; the other arguments as for `pair_draw`."""
        rng = generator(REFERENCE, self.seed, text_seed(pair_id), epoch % self.count)
        drawn = _pair_draw(rng, times.draw(rng), shape, flip, drop)
        if not self.swapped:
            return drawn
        w, l = (drawn.posterior_w, drawn.flip_w), (drawn.posterior_l, drawn.flip_l)
        return replace(drawn, posterior_w=l[0], flip_w=l[1], posterior_l=w[0], flip_l=w[1])


def _pair_draw(rng: np.random.Generator, t: int | float, shape: tuple[int, ...], flip: str, drop: float) -> PairDraw:
    dropped, flip_w, flip_l = (bool(u) for u in rng.random(3) < (drop, 0.5, 0.5))
    eps, posterior_w, posterior_l = (normal(rng, shape) for _ in range(3))
    if flip == "none":
        flip_w = flip_l = False
    elif flip == "pair":
        flip_l = flip_w
    return PairDraw(t, eps, posterior_w, posterior_l, flip_w, flip_l, dropped)


@dataclass(frozen=True)
class ImageDraw:
    """The random numbers of one training on one unpaired image; fields as `PairDraw`'s."""

    t: int | float
    eps: Tensor
    posterior: Tensor
    flip: bool
    drop: bool


def image_draw(
    seed: int, step: int, slot: int, side: int, shape: tuple[int, ...], times: Times, flip: bool, drop: float
) -> ImageDraw:
    """Returns the draw of one slot's desirable (`side` 0) or undesirable (1) image; nothing is shared between the two.

    `flip`: whether images are mirrored, half of them; the others as in `pair_draw`.
    """
    rng = generator(IMAGE, seed, step, slot, side)
    t = times.draw(rng, slot)
    dropped, flipped = (bool(u) for u in rng.random(2) < (drop, 0.5))
    eps, posterior = (normal(rng, shape) for _ in range(2))
    return ImageDraw(t, eps, posterior, flipped and flip, dropped)


def probe_draw(seed: int, pair_id: str, k: int, count: int, shape: tuple[int, ...], times: Times) -> PairDraw:
    """Returns the k-th of a pair's `count` draws for probes: t from the k-th stratum, the latents' posterior means.

    A function of the arguments: not of the step, of other pairs, of ranks. Nothing is mirrored, no prompt is dropped.
    """
    rng = generator(PROBE, seed, text_seed(pair_id), k)
    t = replace(times, strata=count).draw(rng, k)
    mean = torch.zeros(shape)
    return PairDraw(t, normal(rng, shape), mean, mean, False, False, False)


def pair_index(seed: int, step: int, slot: int, batch_size: int, count: int) -> int:
    """Returns which of `count` pairs stands in a slot: every epoch is a permutation, epochs follow without a gap."""
    return pair_place(seed, step, slot, batch_size, count)[0]


def pair_place(seed: int, step: int, slot: int, batch_size: int, count: int) -> tuple[int, int]:
    """Returns the pair of a slot, as `pair_index` does, and the epoch (0, 1, ...) that the slot is in."""
    epoch, position = divmod(step * batch_size + slot, count)
    return int(_permutation(count, ORDER, seed, epoch)[position]), epoch


def image_index(seed: int, step: int, slot: int, side: int, batch_size: int, count: int) -> int:
    """Returns which of a side's `count` images stands in a slot, as `pair_index` does; each side has its own order."""
    epoch, position = divmod(step * batch_size + slot, count)
    return int(_permutation(count, IMAGE_ORDER, seed, epoch, side)[position])


@lru_cache(maxsize=4)  # a batch touches two epochs (of each side), or many tiny ones
def _permutation(count: int, *where: int) -> np.ndarray:
    return generator(*where).permutation(count)
