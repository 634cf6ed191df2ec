"""Counts floating-point operations, and measures how many a device computes a second.

A multiplication with its addition counts as two, as in PyTorch's counter, which counts convolutions, matrix products
and attention: all but a few per mille of a denoiser's work.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


def attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    """Returns the FLOPs of attention for shapes [B, heads, L, D], [B, heads, S, D], [B, heads, S, V]: two products."""
    batch, heads, length, width = query
    return int(2 * batch * heads * length * key[2] * (width + value[3]))


def attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    """Returns the FLOPs of attention's backward pass, twice the forward's, without fused kernels' recomputation."""
    return 2 * attention(query, key, value)


KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
"""PyTorch's fused attention kernels. Its counter omits the CPU's, and counts the recomputation of the others."""
FUSED = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{suffix}"): count
    for kernel in KERNELS
    for suffix, count in (("", attention), ("_backward", attention_backward))
}


def counted(work: Callable[[], object]) -> int:
    """Returns the FLOPs of a call of `work`, with backward passes; on the meta device it needs no memory."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        work()
    return int(counter.get_total_flops())


def matmul_rate(device: str, dtype: torch.dtype, size: int | None = None, seconds: float = 1.0) -> float:
    """Returns the FLOP/s of the fastest of the `size`-cubed matrix products that fit into some seconds.

    The default size is 512 on a CPU, short enough that another process rarely interrupts it, and 8192 on a GPU; larger
    products are no faster.
    """
    size = size or (8192 if device == "cuda" else 512)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    for number in range(1000):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        if number:  # the first one loads kernels
            best = min(best, time.perf_counter() - start)
        if number and time.perf_counter() > end:
            break
    return 2 * size**3 / best


def synchronize(device: str) -> None:
    """Waits until the GPU has finished its queued work; returns at once on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def traced(loss: Callable[[], torch.Tensor], network: torch.nn.Module) -> tuple[int, int]:
    """Returns the FLOPs of a loss with its backward pass, and the bytes that its graph keeps between the two.

    Each storage counts once. Left out are the network's weights, the activations that gradient checkpointing
    recomputes, and attention's L x S maps: the meta device has no fused attention, other devices do. Their fused
    attention also keeps its output: 5% more where all weights are frozen (with a rater's vector alone).
    """
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in maps.storages:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    maps = AttentionMaps()

    def step() -> None:
        with maps, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = loss()
        result.backward()

    flop = counted(step)
    return flop, sum(storage.nbytes() for storage in kept.values())


class AttentionMaps(TorchDispatchMode):
    """Records the storages of attention's softmax while the mode is active, and keeps them alive."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._safe_softmax.default:
            storage = result.untyped_storage()
            self.storages[storage._cdata] = storage
        return result
