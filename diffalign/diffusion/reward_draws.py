"""The draws of timestep and noise at which implicit rewards are measured."""

from torch import Tensor

from diffalign.diffusion.rng import REWARD, generator, normal, text_seed
from diffalign.diffusion.timesteps import Times


def reward_draw(seed: int, name: str, k: int, shape: tuple[int, ...], times: Times) -> tuple[int | float, Tensor]:
    """Returns (t, eps [C, h, w]) of a k-th draw: a function of the arguments; images that share `name` share it."""
    rng = generator(REWARD, seed, text_seed(name), k)
    return times.draw(rng), normal(rng, shape)
