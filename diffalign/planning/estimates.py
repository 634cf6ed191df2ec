"""Estimates a training run's time, memory and disk space from plain numbers, which `planner.py` finds.

A multiplication with its addition counts as two FLOPs; sizes are in bytes, times in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

Optimizer = Literal["adamw", "adafactor", "adamw8bit"]
Shape = tuple[int, ...]

UTILISATION = 0.35
"""Assumed share of the measured matrix-product rate that training reaches, until a run has measured its own.

A cautious guess: convolutions, norms and small batches cost the rest. The issue's aim on a GPU is 0.5; the official
code's published time amounts to 0.08.
"""

FP32, BF16, BLOCK = 4, 2, 512


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    weights: int
    """The denoiser in float32, adapters included."""
    casts: int
    """The bfloat16 copies of the weights that autocast keeps as long as the graph; 0 in fp32 and with FSDP."""
    reference: int
    """A frozen copy of the denoiser, bfloat16 in bf16 runs without FSDP, else float32; 0 with LoRA, cached or none."""
    gradients: int
    """Float32; unsharded even with FSDP where a step has several micro-batches: the last one shards them."""
    optimizer: int
    ema: int
    activations: int
    """Estimated tensors that a micro-batch's graph keeps for the backward pass; temporary buffers aren't counted."""
    old: int = 0
    """A copy of the trained weights at an earlier step, float32; 0 unless the method keeps one."""
    vae: int = 0
    """The VAE in float32, where the policy learns from its own pictures."""
    rewards: int = 0
    """The weights of the reward models that it learns from, as large as on the disk."""
    trajectories: int = 0
    """The latents that its rollout went through, float32."""

    @property
    def total(self) -> int:
        """Returns the sum of all parts in bytes."""
        return sum(vars(self).values())


def memory(
    network: int,
    trained: Sequence[Shape],
    *,
    lora: bool,
    reference: str,
    optimizer: Optimizer,
    ema: bool,
    precision: str,
    activations: int,
    shares: int | None = None,
    accumulates: bool = False,
) -> Memory:
    """Returns a training run's memory on one device, in bytes.

    `network` is the number of the denoiser's weights, adapters included; with `lora` a live reference is the policy
    itself with its adapters off; `trained` holds the shapes of the trained tensors; `reference` is live, cached or
    none; `activations` is the size in bytes of the tensors that a micro-batch's graph keeps; `shares` is the number of
    devices over which FSDP shards all other parts, None without FSDP; `accumulates` is true where a step has several
    micro-batches.
    """
    elements, each = sum(map(prod, trained)), shares or 1
    bf16 = precision == "bf16" and shares is None  # FSDP keeps its shards in fp32 and gathers a block in bf16
    reference_bytes = (BF16 if bf16 else FP32) * network if reference == "live" and not lora else 0
    return Memory(
        weights=FP32 * network // each,
        casts=BF16 * network if bf16 else 0,
        reference=reference_bytes // each,
        gradients=FP32 * elements // (1 if accumulates else each),
        optimizer=optimizer_bytes(trained, optimizer) // each,
        ema=FP32 * elements // each if ema else 0,
        activations=activations,
    )


def optimizer_bytes(trained: Sequence[Shape], optimizer: Optimizer) -> int:
    """Returns the size in bytes of an optimizer's state for trained weights of these shapes.

    adamw: two float32 moments a weight and a step count a tensor (Loshchilov & Hutter 2019). adafactor, without
    momentum: for a tensor of two or more dimensions the second moment's means over the last dimension and over the last
    but one, else the whole second moment (Shazeer & Stern 2018, sec. 3). adamw8bit: two moments of one byte a weight,
    with a float32 scale for each 256; tensors below 4096 weights stay in float32 (Dettmers et al. 2022 and
    bitsandbytes' defaults).
    """
    if optimizer == "adamw":
        return sum(2 * FP32 * prod(shape) + FP32 for shape in trained)
    if optimizer == "adafactor":
        return sum(FP32 * factored(shape) for shape in trained)
    return sum(2 * (prod(s) + FP32 * -(-prod(s) // 256)) if prod(s) >= 4096 else 2 * FP32 * prod(s) for s in trained)


def factored(shape: Shape) -> int:
    """Returns how many numbers Adafactor keeps of a tensor's second moment."""
    if len(shape) < 2:
        return prod(shape)
    return prod(shape[:-1]) + prod(shape[:-2]) * shape[-1]


def pairs_per_second(flop_per_pair: float, rate: float, utilisation: float, processes: int) -> float:
    """Returns the pairs a second of all processes together, each on its own device of `rate` FLOP/s."""
    return utilisation * rate * processes / flop_per_pair


def sample_bytes(about: int, tensors: Sequence[Shape]) -> int:
    """Returns a sample's size in a shard: two tar files, each a header block and padded data (`shard_writer.member`).

    `about` is the length of its JSON in bytes. Its safetensors file has 8 bytes, a JSON header of
    about 70 bytes a tensor, and float16 data.
    """
    data = 8 + 70 * len(tensors) + sum(BF16 * prod(shape) for shape in tensors)
    return 2 * BLOCK + padded(about) + padded(data)


def shard_bytes(images: int, prompts: int, latent: Shape, prompt: Sequence[Shape], flips: bool, text: int = 60) -> int:
    """Returns the size of all shards with their index (56 bytes a sample).

    An image has a mean and a logvar of shape `latent`, and with `flips` those of its mirror image, too; `prompt` holds
    the shapes of a prompt's tensors. `text` is the prompts' mean length in bytes, which hardly matters.
    """
    image = sample_bytes(110, [latent] * (4 if flips else 2))
    return images * (image + 56) + prompts * (sample_bytes(90 + text, prompt) + 56)


def padded(size: int) -> int:
    """Returns a size rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK
