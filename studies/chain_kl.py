"""How far a policy has gone from the base: the divergence of the chains that make their pictures, in nats a picture.

KL(policy || base) of the whole chain of a sampler that adds noise is the mean, over the policy's own chains, of the sum
of their moves' divergences, each between two Gaussians of one deviation. A move that adds next to no noise is left out.
Shapes: B pictures, C latent channels, h w latent.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from diffalign.config.params import Params
from diffalign.diffusion.policy_gradient import gaussian_kl
from diffalign.diffusion.process import transition
from diffalign.diffusion.rollouts import Trajectory, rollout
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.diffusion.sampling import Output, guided
from diffalign.generation.pipeline import initial_noise, latent_shape, repeated, step_noise
from diffalign.models import family as families
from diffalign.models import inits, policies
from diffalign.models.family import Family
from diffalign.runtime.environment import default_device

SAMPLER = {"name": "ddim", "eta": 1.0, "spacing": "trailing"}
STEPS = 10
PICTURES = 16
"""Pictures that the mean is over, each for a prompt of its own."""


@torch.no_grad()
def measured(values: Params, name: str, prompts: Sequence[str]) -> float:
    """Returns a policy's divergence from the base, both with the guidance that the policy's images are made with.

    For the first PICTURES of the prompts. Works in a project folder. Raises UserError where the policy can't be loaded.
    """
    texts, model, device = list(prompts[:PICTURES]), values.model, default_device()
    folder = Path("models/policies")
    own = policies.load_policy(model.family, model.path, folder / name, device, ("vae", "text"))
    base = families.load(model.family, model.path, ("text",), device)
    inits.load_denoiser(base, model.family, model.path, values.policies[values.evaluate.baseline].init)
    shape = latent_shape(own, values.precompute.resolution)
    noise = torch.stack([initial_noise(0, text, 0, shape) for text in texts]).to(device)
    guidance = values.generate.sampling(name)["guidance"]
    outputs = [output_of(found, texts, guidance, values.precompute.resolution) for found in (own, base)]
    sampler = samplers.load(SAMPLER)
    made = rollout(outputs[0], own.process, sampler, noise, STEPS, step_noise(0, texts, [0] * len(texts), noise))
    return divergence(outputs[0], outputs[1], made)


def output_of(model: Family, texts: Sequence[str], guidance: float, resolution: int) -> Output:
    """Returns a model's guided output for some prompts and square images."""
    square = (resolution, resolution)
    image = {key: value[None].to(model.device) for key, value in model.image_cond(square, (0, 0), square).items()}
    cond = model.encode_prompt(list(texts)) | repeated(image, len(texts))
    return guided(model.denoise, cond, repeated(model.unconditional() | image, len(texts)), guidance)


def divergence(own: Output, base: Output, made: Trajectory) -> float:
    """Returns the mean over pictures of the sum over moves, and over C, h, w, of their divergence from the base's."""
    total = torch.zeros(made.states.shape[1], device=made.states.device)
    for i in made.trainable:
        x = made.states[i]
        t, t_prev = (torch.full((len(x),), time, device=x.device) for time in made.moves[i])
        ours, theirs = (transition(made.process, one(x, t).float(), x, t, t_prev, made.noise)[0] for one in (own, base))
        total += gaussian_kl(ours, theirs, made.stds[i]) * x[0].numel()
    return float(total.mean())
