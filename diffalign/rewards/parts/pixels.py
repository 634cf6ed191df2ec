"""Preprocessing of pixels for rewards: what their image processors do with 8-bit images, on floats, with gradients.

A clamp here is straight-through: its value is clamped, its gradient is kept, so that an image whose decoder overshot
still learns. Legend: B images, H W pixels, S side of the square that a network takes.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images, by channel, as OpenAI published them; LAION's CLIPs take the same."""


def unit(pixels: Tensor) -> Tensor:
    """Returns pixels [B, 3, H, W], [-1, 1], as float32 in [0, 1]; beyond, they are clamped, straight-through."""
    return clamped(pixels.float() / 2 + 0.5)


def clamped(values: Tensor) -> Tensor:
    """Clamps values to [0, 1] with the gradient of values that aren't clamped; NaN where one isn't finite."""
    return values + (values.clamp(0, 1) - values).detach()


def clip_square(images: Tensor, side: int) -> Tensor:
    """Resizes images [B, 3, H, W] in [0, 1] so that the short side is S, and cuts out the middle: [B, 3, S, S].

    transformers' processor of CLIP: bicubic with antialiasing, the long side rounded down, the crop's corner too.
    """
    images = short_side(images, side)
    top, left = (images.shape[-2] - side) // 2, (images.shape[-1] - side) // 2
    return images[..., top : top + side, left : left + side]


def openai_square(images: Tensor, side: int) -> Tensor:
    """Resizes as `clip_square` and cuts out the middle [B, 3, S, S] as OpenAI's code does, with torchvision.

    Where half a pixel is left over, the crop's corner is rounded to the even one.
    """
    images = short_side(images, side)
    top, left = round((images.shape[-2] - side) / 2), round((images.shape[-1] - side) / 2)
    return images[..., top : top + side, left : left + side]


def short_side(images: Tensor, side: int) -> Tensor:
    """Resizes images [B, 3, H, W] in [0, 1] so that the short side is S; the long side is rounded down."""
    height, width = images.shape[-2:]
    short = min(height, width)
    return resized(images, side * height // short, side * width // short)


def padded_square(images: Tensor, side: int) -> Tensor:
    """Resizes images [B, 3, H, W] in [0, 1] so that the long side is S, and pads with black: [B, 3, S, S].

    HPSv2's own processor, which resizes floats: bicubic with antialiasing, in which values overshoot [0, 1] and stay;
    the short side rounded, the larger half of the padding at the right and at the bottom. Nothing is cut off.
    """
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    size = (round(height * scale), round(width * scale))
    if size != (height, width):
        images = interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    down, across = side - images.shape[-2], side - images.shape[-1]
    return pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Resizes images [B, 3, H, W] in [0, 1] as Pillow's bicubic filter does, which antialiases, without its rounding.

    Pillow goes along the rows, then along the columns, and 8 bits clamp what overshoots after each.
    """
    for size in ((images.shape[-2], width), (height, width)):
        if images.shape[-2:] != size:
            images = clamped(interpolate(images, size, mode="bicubic", align_corners=False, antialias=True))
    return images


def normalised(images: Tensor) -> Tensor:
    """Returns images [B, 3, H, W] in [0, 1] minus CLIP's mean, over its standard deviation, by channel."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std
