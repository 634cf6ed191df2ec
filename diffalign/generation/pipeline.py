"""Images of a model for prompts, from noise that doesn't depend on the model.

Shapes: B images, C latent channels, h w latent and H W pixel height and width.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffalign.diffusion.process import Cond, Denoise
from diffalign.diffusion.rng import NOISE, generator, normal, text_seed
from diffalign.diffusion.sampling import sample
from diffalign.models.family import Family

Draw = Callable[[list[str], Tensor], NDArray[np.uint8]]


def initial_noise(noise_seed: int, prompt: str, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Unit normal noise [C, h, w], a function of the arguments alone: not of the policy, its batch or its device."""
    return normal(generator(NOISE, noise_seed, text_seed(prompt), seed), shape)


def latent_shape(model: Family, resolution: int) -> tuple[int, ...]:
    """(C, h, w) of the latents of a square image of `resolution` pixels: what the encoder makes of a blank one."""
    return tuple(model.encode_image(torch.zeros(1, 3, resolution, resolution))["mean"].shape[1:])


def drawer(model: Family, denoise: Denoise, resolution: int, steps: int, guidance: float) -> Draw:
    """A function (prompts, noise [B, C, h, w] on the CPU) -> uint8 [B, H, W, 3].

    Of `model` the VAE and the text encoders are used, not the denoiser: `denoise` may be another's of its family. It is
    told, where it wants to know, that it draws a square image of `resolution` pixels, nothing cropped.
    """
    device = model.device
    empty, square = model.unconditional(), (resolution, resolution)
    image = {name: value[None].to(device) for name, value in model.image_cond(square, (0, 0), square).items()}

    @torch.no_grad()
    def draw(prompts: list[str], noise: Tensor) -> NDArray[np.uint8]:
        cond = model.encode_prompt(prompts) | repeated(image, len(prompts))
        uncond = repeated(empty | image, len(prompts))
        x0 = sample(denoise, model.process, noise.to(device), cond, uncond, steps, guidance)
        return pixels(model.decode(x0))

    return draw


def repeated(cond: Cond, count: int) -> Cond:
    """A condition's one row, `count` times."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in cond.items()}


def pixels(x: Tensor) -> NDArray[np.uint8]:
    """uint8 [B, H, W, 3] from [B, 3, H, W] in [-1, 1], clipped."""
    levels: NDArray[np.uint8] = (x.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return levels


def png(array: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 [H, W, 3]; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
