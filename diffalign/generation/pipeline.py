"""Makes images of a model for prompts, from noise that doesn't depend on the model.

Shapes: B images, C latent channels, h w latent and H W pixel height and width.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diffalign.core.errors import UserError
from diffalign.data.pixels import to_uint8
from diffalign.diffusion import sampling
from diffalign.diffusion.process import Cond, Denoise, Process
from diffalign.diffusion.rng import NOISE, STEP, generator, normal, text_seed
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.diffusion.samplers.sampler import Sampler
from diffalign.diffusion.sampling import Output, StepNoise
from diffalign.models.family import Family

Pictures = Callable[[list[str], Tensor, StepNoise], Tensor]
"""A function (prompts, noise [B, C, h, w], step noise) -> pictures [B, 3, H, W] in [-1, 1]; it keeps gradients."""
MakeImages = Callable[[list[str], Tensor, StepNoise], NDArray[np.uint8]]
"""A function (prompts, noise [B, C, h, w], step noise) -> uint8 [B, H, W, 3]; it keeps none."""


@dataclass(frozen=True)
class Sampling:
    """The settings by which pictures are sampled from a network."""

    sampler: Sampler
    steps: int
    guidance: float
    """Classifier-free guidance scale; 1 is none."""


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """Returns what params say of a policy's images: `sampler` (its name and settings), `steps` and `guidance`."""
    return Sampling(samplers.load(settings["sampler"]), settings["steps"], settings["guidance"])


def plain(process: Process, steps: int, guidance: float) -> Sampling:
    """Returns the deterministic sampling that a model's own scheduler config describes."""
    return Sampling(samplers.load(process.plain_sampler), steps, guidance)


def initial_noise(noise_seed: int, prompt: str, seed: int, shape: tuple[int, ...], attempt: int = 0) -> Tensor:
    """Returns unit normal noise [C, h, w], a function of the arguments: not of the policy, its batch or its device.

    `attempt` numbers the images that are made of a prompt and a seed, where it is several.
    """
    return normal(generator(NOISE, noise_seed, text_seed(prompt), seed, *numbered(attempt)), shape)


def numbered(attempt: int) -> tuple[int, ...]:
    """Returns what an attempt adds to the place of its draws: nothing for the first, which is the plain image."""
    return (attempt,) if attempt else ()


def step_noise(
    noise_seed: int, prompts: Sequence[str], seeds: Sequence[int], like: Tensor, attempt: int = 0
) -> StepNoise:
    """Returns the noise that steps add to images of these prompts and seeds, in the shape of `like` [B, C, h, w].

    An image's noise at a step is a function of the noise seed, its prompt, its seed, the step and the attempt.
    """

    def at(step: int) -> Tensor:
        where = [(text_seed(prompt), seed, step) for prompt, seed in zip(prompts, seeds, strict=True)]
        rngs = [generator(STEP, noise_seed, *place, *numbered(attempt)) for place in where]
        return torch.stack([normal(rng, tuple(like.shape[1:])) for rng in rngs]).to(like.device)

    return at


def no_noise(step: int) -> Tensor:
    """Raises AssertionError: stands for the step noise of deterministic samplers, which ask for none."""
    raise AssertionError(f"a deterministic sampler asked for noise at step {step}")


def latent_shape(model: Family, resolution: int) -> tuple[int, ...]:
    """Returns (C, h, w) of a square image's latents, `resolution` pixels a side, by encoding a blank one."""
    return tuple(model.encode_image(torch.zeros(1, 3, resolution, resolution))["mean"].shape[1:])


@dataclass(frozen=True)
class Chain:
    """The way from noise to the pictures of some prompts; it keeps gradients."""

    output: Output
    """The network with the prompts' conditions, guided."""
    process: Process
    how: Sampling
    finished: Callable[[Tensor], Tensor]
    """From clean latents [B, C, h, w] to pictures [B, 3, H, W] in [-1, 1]; UserError where they aren't finite."""

    def latents(self, noise: Tensor, added: StepNoise) -> Tensor:
        """Returns the clean latents [B, C, h, w] of unit noise of that shape; `added` is the steps' own."""
        return sampling.sample(self.output, self.process, self.how.sampler, noise, self.how.steps, added)

    def pictures(self, noise: Tensor, added: StepNoise) -> Tensor:
        """Returns the pictures of noise [B, C, h, w]; see `latents`."""
        return self.finished(self.latents(noise, added))


def chains(model: Family, denoise: Denoise, resolution: int, how: Sampling) -> Callable[[Sequence[str]], Chain]:
    """Returns the function from prompts to the chain that makes their pictures.

    Of `model` the VAE and the text encoders are used, not the denoiser: `denoise` may be another's of its family. It is
    told, where it wants to know, that it makes a square image of `resolution` pixels, nothing cropped.
    """
    device = model.device
    empty, square = model.unconditional(), (resolution, resolution)
    image = {name: value[None].to(device) for name, value in model.image_cond(square, (0, 0), square).items()}

    def chain(prompts: Sequence[str]) -> Chain:
        cond = model.encode_prompt(list(prompts)) | repeated(image, len(prompts))
        uncond = repeated(empty | image, len(prompts))

        def finished(x0: Tensor) -> Tensor:
            check_finite(x0, "latents", prompts, model)
            decoded = picture(model, x0)
            check_finite(decoded, "pixels", prompts, model)
            return decoded

        output = sampling.guided(denoise, cond, uncond, how.guidance)
        return Chain(output, model.process, how, finished)

    return chain


def pictures(model: Family, denoise: Denoise, resolution: int, how: Sampling) -> Pictures:
    """Returns the function from prompts and noise to float pictures; gradients reach the noise and `denoise`.

    See `chains`. The function raises UserError where latents or pixels aren't finite.
    """
    of = chains(model, denoise, resolution, how)
    return lambda prompts, noise, added: of(prompts).pictures(noise.to(model.device), added)


def image_maker(model: Family, denoise: Denoise, resolution: int, how: Sampling) -> MakeImages:
    """Returns the function from prompts and noise to 8-bit images; see `pictures`."""
    make = pictures(model, denoise, resolution, how)

    @torch.no_grad()
    def make_images(prompts: list[str], noise: Tensor, added: StepNoise) -> NDArray[np.uint8]:
        return to_uint8(make(prompts, noise, added))

    return make_images


def check_finite(x: Tensor, what: str, prompts: Sequence[str], model: Family) -> None:
    """Raises UserError unless all of x [B, ...] is finite; names what isn't, down to a weight of the model.

    `what` x is: latents or pixels; `prompts` are those its rows were made for.
    """
    broken = [i for i, finite in enumerate(x.isfinite().flatten(1).all(1).tolist()) if not finite]
    if broken:
        weight = broken_weight(model)
        cause = f"So has {weight}: make or fetch that network again." if weight else REMEDIES[what]
        raise UserError(
            f"{what} of generated images: expected finite numbers, found NaN or infinities in {len(broken)} of "
            f"{len(x)} images, that of the prompt {prompts[broken[0]]!r} among them. {cause}"
        )


def broken_weight(model: Family) -> str | None:
    """Returns the name of a weight of the model that isn't finite, `denoiser.conv_in.weight`; None without one."""
    for part, network in vars(model).items():
        for name, value in network.named_parameters() if isinstance(network, nn.Module) else ():
            if not bool(value.isfinite().all()):
                return f"the weight {part}.{name}"
    return None


REMEDIES = {
    "latents": "The weights that were looked at are finite. Latents come from the denoiser and the text encoder: does "
    "this model need a lower generate.guidance, or fewer or more generate.steps?",
    "pixels": "The latents and the weights that were looked at are finite: the VAE's decoder overflows on them.",
}


def repeated(cond: Cond, count: int) -> Cond:
    """Returns a condition's one row, `count` times."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in cond.items()}


class _Clipped(torch.autograd.Function):
    """Clips values to [-1, 1] and passes gradients on everywhere, as if it didn't."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def picture(model: Family, x0: Tensor) -> Tensor:
    """Decodes latents [B, C, h, w] to float pictures [B, 3, H, W] in [-1, 1], with gradients.

    Values beyond the range are clipped, but keep their gradient: a decoder overshoots at edges, and would learn nothing
    there.
    """
    clipped: Tensor = _Clipped.apply(model.decode(x0))
    return clipped


def png(array: NDArray[np.uint8]) -> bytes:
    """Returns the PNG of uint8 [H, W, 3]; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
