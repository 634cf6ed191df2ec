"""Makes training fast on a GPU, by what changes nothing but the last digits; does nothing on a CPU."""

import gc
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.utils.deterministic
from torch import nn

from diffalign.core.files import RUNS

CACHE = RUNS / "inductor"
"""Where compiled code is kept from run to run: it can be removed at any time."""
GRAPHS = 1024
"""Compiled variants of a kind of block at most, in the whole process: a UNet's ResNets alone have 16 shapes, each with
and without gradients, in training and in evaluation, of two batch sizes. Beyond it PyTorch runs blocks as they are.
"""


def set_up(device: torch.device, precision: str) -> None:
    """Sets the process up: on a CPU equal bits for equal work; on a GPU the fastest kernels of the precision.

    TF32 stands in for fp32's products where forward passes are in bf16, which is coarser still; fp32 stays fp32.
    """
    torch.use_deterministic_algorithms(device.type == "cpu")
    # 5% of a step on a CPU, and nothing reads what isn't filled
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        coarse = precision == "bf16"
        torch.set_float32_matmul_precision("high" if coarse else "highest")
        torch.backends.cudnn.allow_tf32 = coarse
        torch.backends.cudnn.benchmark = True  # shapes are the same in every step


def peak_bytes(device: torch.device) -> int:
    """Returns the peak memory so far, in bytes: on a GPU of tensors, on a CPU of all the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in kibibytes


def to_channels_last(network: nn.Module) -> None:
    """Lays a network's weights out as convolutions on a GPU like them, in place; activations follow."""
    if next(network.parameters()).device.type == "cuda":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_blocks(network: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    """Compiles a network's repeated blocks, in place, once for all of a kind and shape; returns the network.

    Of blocks within each other the inner ones. DDP cuts none of them up: a policy's blocks round as its reference's do.
    """
    keep_compiled(CACHE)
    torch._dynamo.config.recompile_limit = GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 4 * GRAPHS
    torch._dynamo.config.optimize_ddp = False
    for block in blocks:
        if not any(inner is not block and inner in blocks for inner in block.modules()):
            block.compile(dynamic=False)
    return network


def keep_compiled(folder: Path) -> None:
    """Makes Inductor keep what it compiles in a folder for later runs, unless TORCHINDUCTOR_CACHE_DIR says where."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) == default_cache_dir():  # PyTorch sets it itself
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.resolve())


def release() -> None:
    """Frees the memory of networks that nobody holds any more: compiled and sharded ones refer to themselves."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
