"""Spreads networks over the processes of a training run: a copy on each (DDP), or a share on each (FSDP2).

torch.distributed's fsdp and tensor take half a second to import: what workers alone call does.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from diffalign.runtime import devices

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from torch.distributed.fsdp import FSDPModule


class Parallel(Protocol):
    """A way to spread networks over processes. Gradients are averages over them."""

    @property
    def accelerator(self) -> "Accelerator":
        """Returns accelerate's view of the processes."""

    def policy(self, network: nn.Module) -> nn.Module:
        """Spreads the network that trains; returns it as its forward must be called. RuntimeError if it isn't spread.

        Its parameters may be others than before.
        """

    def frozen(self, network: nn.Module) -> nn.Module:
        """Spreads a network without gradients; returns it as its forward must be called."""

    def micro_step(self, network: nn.Module, last: bool) -> "AbstractContextManager[None]":
        """Wraps a micro-batch's forward and backward: processes exchange gradients after a step's last one only."""


@dataclass(frozen=True)
class Replicated:
    """Gives every process all weights; DDP averages gradients."""

    accelerator: "Accelerator"
    compiled: bool = False

    def policy(self, network: nn.Module) -> nn.Module:
        """Returns the network in DDP, or itself in a single process."""
        wrapped = cast(nn.Module, self.accelerator.prepare(prepared(network, self.compiled)))
        if self.accelerator.num_processes > 1 and not isinstance(wrapped, DistributedDataParallel):
            raise RuntimeError(f"expected DistributedDataParallel, got {type(wrapped).__name__}")
        return wrapped

    def frozen(self, network: nn.Module) -> nn.Module:
        """Returns the network itself: each process has a copy."""
        return frozen(network, self.accelerator.mixed_precision == "bf16", self.compiled)

    @contextmanager
    def micro_step(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Holds back DDP's reduction before the last micro-batch."""
        if last:
            yield
        else:
            with self.accelerator.no_sync(network):
                yield


@dataclass(frozen=True)
class Sharded:
    """Gives every process a share of each weight, gradient and moment (FSDP2, Zhao et al. 2023, arXiv 2304.11277).

    A block's weights are gathered when it is due: in bf16 where training's forward passes are, from fp32 shares;
    gradients are reduced in fp32. Inputs aren't cast, autocast does that: a time in bf16 would be another time.
    """

    accelerator: "Accelerator"
    compiled: bool = False

    def policy(self, network: nn.Module) -> nn.Module:
        """Shards the network in place and returns it."""
        from torch.distributed.tensor import DTensor

        self._shard(network)
        left = [name for name, p in network.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
        if left:
            raise RuntimeError(f"expected every trainable parameter to be sharded, {left[0]} for one isn't")
        return network

    def frozen(self, network: nn.Module) -> nn.Module:
        """Shards the network in place and returns it; frees what FSDP keeps of a forward for a backward."""
        self._shard(network)
        network.register_forward_hook(lambda module, *_: cast("FSDPModule", module).reset_iter_state())
        return network

    @contextmanager
    def micro_step(self, network: nn.Module, last: bool) -> Iterator[None]:
        """Holds back FSDP's reduction before the last micro-batch: a process has its own in full until then."""
        sharded = cast("FSDPModule", network)
        sharded.set_requires_gradient_sync(last)
        sharded.set_is_last_backward(last)
        yield

    def _shard(self, network: nn.Module) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if self.compiled:
            devices.compile_blocks(network, blocks(network))  # not `units`: FSDP gathers the weights of what is in them
        bf16 = self.accelerator.mixed_precision == "bf16"
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32 if bf16 else None,
            cast_forward_inputs=False,
        )
        mesh = make_mesh(self.accelerator)
        for module in [*reversed(blocks(network)), network]:  # what lies within a module before the module itself
            fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)


STRATEGIES: dict[str, Callable[["Accelerator", bool], Parallel]] = {"ddp": Replicated, "fsdp": Sharded}
"""(the processes, whether blocks are compiled) -> how networks are spread."""


def prepared(network: nn.Module, compiled: bool) -> nn.Module:
    """Lays a network out for its device and, where asked for, compiles its blocks, in place; returns it."""
    devices.to_channels_last(network)
    return devices.compile_blocks(network, units(network)) if compiled else network


def frozen(network: nn.Module, bf16: bool, compiled: bool) -> nn.Module:
    """Prepares a network without gradients, in place; in bf16 what autocast would make bf16 in every forward pass."""
    if bf16:
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(torch.bfloat16)
    return prepared(network, compiled)


def make_mesh(accelerator: "Accelerator") -> DeviceMesh:
    """Returns a mesh of all processes in one dimension; a single process becomes a group of its own."""
    if not dist.is_initialized():
        dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return init_device_mesh(accelerator.device.type, (accelerator.num_processes,))


UNITS = ("Transformer2DModel", "ResnetBlock2D", "Upsample2D", "Downsample2D", "JointTransformerBlock")
"""Classes of diffusers that are compiled, each as one piece: norms and projections go with the attention between them,
which else would be copied from one layout into another. A whole UNet takes more than minutes to compile.
"""


def units(network: nn.Module) -> list[nn.Module]:
    """Lists the modules of a denoiser that are compiled; they hold nearly all weights, and none lies in another."""
    return [module for module in network.modules() if type(module).__name__ in UNITS]


def blocks(network: nn.Module) -> list[nn.Module]:
    """Lists the modules that a denoiser of diffusers repeats or names as not to be split, outer ones first."""
    names = {*(getattr(network, "_repeated_blocks", None) or ()), *(getattr(network, "_no_split_modules", None) or ())}
    return [module for module in network.modules() if type(module).__name__ in names]


@torch.no_grad()
def whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Returns the tensors in full; all processes must call it. Gathered ones are on the CPU, kept only where `keep`."""
    from torch.distributed.tensor import DTensor

    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            full = tensor.full_tensor()
            if not keep:
                continue
            tensor = full.cpu()
        found[name] = tensor
    return found


@torch.no_grad()
def share(tensor: Tensor, like: Tensor) -> Tensor:
    """Copies this process's part of a full tensor to where `like` is; laid out as `like` if their shapes agree."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if tensor.shape != like.shape:
        return tensor.to(like.device, copy=True)
    if isinstance(like, DTensor):
        tensor = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients to a global norm of `max_norm` at most; returns what it was, a scalar, on every process."""
    from torch.distributed.tensor import DTensor

    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
