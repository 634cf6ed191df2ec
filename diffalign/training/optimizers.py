"""The optimizers of training, by name."""

from collections.abc import Callable

from torch import nn
from torch.optim import AdamW, Optimizer

from diffalign.core.errors import UserError

Make = Callable[[list[nn.Parameter], float, float], Optimizer]
"""(parameters, learning rate, weight decay) -> an optimizer with one group."""


def adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Returns fused AdamW; two moments in fp32, 8 bytes a weight (Loshchilov & Hutter 2019, arXiv 1711.05101)."""
    return AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def adafactor(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Returns Adafactor as Diffusion-DPO's train.py sets it for SDXL: the given rate, not relative to weights or steps.

    A matrix's second moments are kept as a row's and a column's, a convolution's over its kernel (Shazeer & Stern 2018,
    arXiv 1804.04235).
    """
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=lr, weight_decay=weight_decay, scale_parameter=False, relative_step=False)


def adamw8bit(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """Returns AdamW with moments in 8 bits, blockwise, 2 bytes a weight (Dettmers et al. 2022, arXiv 2110.02861)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer: expected bitsandbytes to be installed for adamw8bit, it isn't: pip install 'diffalign[8bit]', "
            "or set the policy's optimizer to adamw or adafactor"
        ) from None
    return AdamW8bit(parameters, lr=lr, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Make] = {"adamw": adamw, "adafactor": adafactor, "adamw8bit": adamw8bit}
