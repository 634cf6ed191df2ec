"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; Google's Lite variant) up to its last features.

Trained on ImageNet in TensorFlow, so convolutions pad as TensorFlow does: with a stride, one more at the right and the
bottom. Batch normalisation is folded into the convolution before it. Legend: B images, D = 1280.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, relu6

SIDE, WIDTH = 224, 1280
EPS = 1e-3
"""Of batch normalisation."""
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion, channels."""
STEM = 32


@dataclass(frozen=True)
class Convolution:
    """A convolution with the normalisation after it: `weight` [O, I, K, K], `bias` [O]; ReLU6 where `active`."""

    weight: Tensor
    bias: Tensor
    stride: int = 1
    groups: int = 1
    active: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Returns [B, O, H / stride, W / stride], rounded up, of [B, I, H, W]."""
        kernel = self.weight.shape[-1]
        rows, columns = (max((-(-n // self.stride) - 1) * self.stride + kernel - n, 0) for n in x.shape[-2:])
        x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        x = conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return relu6(x) if self.active else x


@dataclass(frozen=True)
class Network:
    """The stem, the blocks, each its convolutions and whether its input is added to its output, and the head."""

    stem: Convolution
    blocks: tuple[tuple[tuple[Convolution, ...], bool], ...]
    head: Convolution

    def __call__(self, images: Tensor) -> Tensor:
        """Returns features [B, D] of images [B, 3, 224, 224] in [0, 1]: means over the last map's places."""
        x = self.stem((images * 255 - 127) / 128)
        for convolutions, added in self.blocks:
            y = x
            for convolution in convolutions:
                y = convolution(y)
            x = x + y if added else y
        return self.head(x).mean(dim=(2, 3))


def layers() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yields the names of each convolution and of its normalisation, and the weight's shape."""
    yield "_conv_stem", "_bn0", (STEM, 3, 3, 3)
    for name, into, out, kernel, _, expansion in blocks():
        wide = into * expansion
        if expansion != 1:
            yield f"{name}._expand_conv", f"{name}._bn0", (wide, into, 1, 1)
        yield f"{name}._depthwise_conv", f"{name}._bn1", (wide, 1, kernel, kernel)
        yield f"{name}._project_conv", f"{name}._bn2", (out, wide, 1, 1)
    yield "_conv_head", "_bn1", (WIDTH, STAGES[-1][-1], 1, 1)


def blocks() -> Iterator[tuple[str, int, int, int, int, int]]:
    """Yields each block's name, channels in and out, kernel, stride and expansion."""
    number, into = 0, STEM
    for count, kernel, first, expansion, out in STAGES:
        for place in range(count):
            yield f"_blocks.{number}", into, out, kernel, first if place == 0 else 1, expansion
            number, into = number + 1, out


def build(state: Mapping[str, Tensor], device: torch.device | str) -> Network:
    """Builds the network from the checkpoint's tensors, float32; the classes' layer isn't needed."""
    convolutions = {name: folded(state, name, normalisation, device) for name, normalisation, _ in layers()}
    built = []
    for name, into, out, _, stride, expansion in blocks():
        parts = [] if expansion == 1 else [Convolution(*convolutions[f"{name}._expand_conv"])]
        deep = convolutions[f"{name}._depthwise_conv"]
        parts.append(Convolution(*deep, stride=stride, groups=len(deep[0])))
        parts.append(Convolution(*convolutions[f"{name}._project_conv"], active=False))
        built.append((tuple(parts), stride == 1 and into == out))
    stem, head = Convolution(*convolutions["_conv_stem"], stride=2), Convolution(*convolutions["_conv_head"])
    return Network(stem, tuple(built), head)


def folded(
    state: Mapping[str, Tensor], convolution: str, normalisation: str, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Returns (weight, bias) of a convolution with its normalisation."""
    weight, bias, mean, var = (
        state[f"{normalisation}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (var + EPS).sqrt()
    kernel = state[f"{convolution}.weight"].double() * scale[:, None, None, None]
    return kernel.float().to(device), (bias - mean * scale).float().to(device)
