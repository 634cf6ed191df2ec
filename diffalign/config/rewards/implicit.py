"""The settings of a policy's implicit reward."""

from typing import Annotated

from pydantic import Field

from diffalign.config.values import Count, Density, Model, Span, Whole


class Settings(Model):
    """A policy as a judge.

    `policy`: its folder. `family` and `model`: the model whose VAE, text encoder and scheduler it uses, a folder in
    diffusers' layout. `init`: the folder with the reference's denoiser. `resolution`: pixels a side that images are
    resized to. `draws` of timestep, in the range `timesteps` of the schedule by `timestep_density`, and of noise, by
    `seed`. `batch_size`: image-draws in a forward.
    """

    policy: str
    family: str
    model: str
    init: str
    resolution: Annotated[int, Field(ge=8, multiple_of=8)]
    draws: Count
    timesteps: Span
    timestep_density: Density
    seed: Whole
    batch_size: Count
