"""What a training run will take, from numbers alone: time, memory, disk; `planner.py` finds the numbers.

FLOPs count a multiplication with its addition as two; sizes are bytes, times seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

Optimizer = Literal["adamw", "adafactor", "adamw8bit"]
Shape = tuple[int, ...]

UTILISATION = 0.35
"""Share of the measured rate of matrix products that training is assumed to reach until a run has measured its own.

A guess on the careful side: convolutions, norms and small batches cost the rest. The issue's aim on a GPU is 0.5; the
official code's published time makes 0.08.
"""

FP32, BF16, BLOCK = 4, 2, 512


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    weights: int
    """The denoiser in float32, adapters included."""
    casts: int
    """autocast's bfloat16 copies of the weights, alive while a graph is; 0 in fp32 and in FSDP."""
    reference: int
    """A frozen copy of the denoiser, in bfloat16 where forward passes are but for FSDP; 0 with LoRA, cached or none."""
    gradients: int
    """In full in FSDP, too, where a step has several micro-batches: they are shared out after the last one."""
    optimizer: int
    ema: int
    activations: int
    """What the graph of a micro-batch keeps for the backward pass, an estimate; temporary buffers come on top."""

    @property
    def total(self) -> int:
        """All of it."""
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
    """The bytes of a run on one device.

    `network` is how many weights the denoiser has, adapters included; `trained` are the shapes of those that are
    trained; `reference` is live, cached or none; `activations` are the bytes that a micro-batch's graph keeps; `shares`
    is over how many devices FSDP spreads the rest, None without FSDP; `accumulates` says whether a step has several
    micro-batches.
    """
    elements, each = sum(map(prod, trained)), shares or 1
    bf16 = precision == "bf16" and shares is None  # FSDP keeps its shares in fp32 and gathers a block in bf16
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
    """What an optimizer keeps of weights of these shapes.

    adamw: two float32 moments and a step count a tensor (Loshchilov & Hutter 2019). adafactor, without momentum: for a
    tensor of two dimensions or more the second moment's means over its last and over its last but one, else all of it
    (Shazeer & Stern 2018, sec. 3). adamw8bit: two moments of a byte, each with a float32 scale for 256 weights;
    tensors below 4096 weights stay in float32 (Dettmers et al. 2022 and bitsandbytes' defaults).
    """
    if optimizer == "adamw":
        return sum(2 * FP32 * prod(shape) + FP32 for shape in trained)
    if optimizer == "adafactor":
        return sum(FP32 * factored(shape) for shape in trained)
    return sum(2 * (prod(s) + FP32 * -(-prod(s) // 256)) if prod(s) >= 4096 else 2 * FP32 * prod(s) for s in trained)


def factored(shape: Shape) -> int:
    """How many numbers Adafactor keeps of a tensor's second moment."""
    if len(shape) < 2:
        return prod(shape)
    return prod(shape[:-1]) + prod(shape[:-2]) * shape[-1]


def pairs_per_second(flop_per_pair: float, rate: float, utilisation: float, processes: int) -> float:
    """Pairs a second of all processes together, each on a device of its own with this rate of matrix products."""
    return utilisation * rate * processes / flop_per_pair


def sample_bytes(about: int, tensors: Sequence[Shape]) -> int:
    """One sample in a shard: two files of a tar, each a header block and padded data (`shard_writer.member`).

    `about` is the length of its JSON. safetensors: 8 bytes, a JSON header of about 70 bytes a tensor, float16 data.
    """
    data = 8 + 70 * len(tensors) + sum(BF16 * prod(shape) for shape in tensors)
    return 2 * BLOCK + padded(about) + padded(data)


def shard_bytes(images: int, prompts: int, latent: Shape, prompt: Sequence[Shape], flips: bool, text: int = 60) -> int:
    """All shards and their index (56 bytes a sample): mean and logvar an image, mirrored too with `flips`.

    `text` is the prompts' usual length in bytes, which hardly matters.
    """
    image = sample_bytes(110, [latent] * (4 if flips else 2))
    return images * (image + 56) + prompts * (sample_bytes(90 + text, prompt) + 56)


def padded(size: int) -> int:
    """A size in whole blocks of a tar."""
    return -(-size // BLOCK) * BLOCK
