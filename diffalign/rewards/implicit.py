"""A policy as a judge: the reward that it implies (Wallace et al. 2023, arXiv 2311.12908), of images, not latents.

Score: mean over K draws of |target - out_ref|^2 - |target - out|^2, over beta: how much better the policy denoises the
image for the prompt than the reference that it began from. Errors are means over C, h, w; scores are small numbers of
either sign. Preprocessing: short side to the resolution, bicubic, the middle cut out, then the VAE's posterior mean.
Draws are the prompt's: images for one prompt meet the same timesteps and noise. Licence: the policy's.

Legend: B images, H W pixels, K draws an image, C latent channels, h w latent height and width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.data.families import OWN
from diffalign.data.shards.encode import image_cond
from diffalign.diffusion.losses import errors
from diffalign.diffusion.process import Cond
from diffalign.diffusion.reward_draws import reward_draw
from diffalign.diffusion.timesteps import Times
from diffalign.models import family as networks
from diffalign.models import policies
from diffalign.models.family import Family
from diffalign.models.parts import weights
from diffalign.rewards.parts.encoded import finite
from diffalign.rewards.parts.pixels import clip_square, unit
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.implicit import Settings

MADE = Path("models/policies")
"""The folder where stage train puts policies."""


@dataclass(frozen=True)
class Implicit:
    """Scores without bounds; `model` has the VAE and the text encoder beside the reference's denoiser."""

    model: Family
    policy: Family
    times: Times
    settings: "Settings"
    version: str
    trained_on: str
    name = "implicit"
    range = (-math.inf, math.inf)
    families = (OWN,)
    differentiable = False

    @torch.no_grad()
    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float32, of images [B, 3, H, W] in [-1, 1]; NaN where a pixel isn't finite."""
        if len(prompts) != len(pixels):
            raise ValueError(f"expected a prompt for each of {len(pixels)} images, got {len(prompts)}")
        known = finite(pixels)
        device, side = self.model.device, self.settings.resolution
        squares = clip_square(unit(pixels.nan_to_num(0, 0, 0).to(device)), side) * 2 - 1
        x0 = self.model.encode_image(squares)["mean"]
        cond = self.model.encode_prompt(list(prompts))
        sizes = image_cond(self.model, pixels.shape[3], pixels.shape[2], side)
        cond |= {name: value.to(device).expand(len(x0), *value.shape) for name, value in sizes.items()}
        gained = self.gained(x0, cond, prompts).reshape(len(x0), self.settings.draws).mean(dim=1).cpu()
        return torch.where(known, gained, math.nan)

    def gained(self, x0: Tensor, cond: Cond, prompts: Sequence[str]) -> Tensor:
        """Returns the reference's errors minus the policy's [B * K], at the draws of each image's prompt."""
        settings, process, device = self.settings, self.times.process, x0.device
        slots = [(n, k) for n in range(len(x0)) for k in range(settings.draws)]
        found = []
        for start in range(0, len(slots), settings.batch_size):
            part = slots[start : start + settings.batch_size]
            drawn = [reward_draw(settings.seed, prompts[n], k, tuple(x0.shape[1:]), self.times) for n, k in part]
            t = torch.tensor([t for t, _ in drawn]).to(device)
            eps = torch.stack([eps for _, eps in drawn]).to(device)
            rows = torch.tensor([n for n, _ in part], device=device)
            clean, given = x0[rows], {name: value[rows] for name, value in cond.items()}
            noisy, target = process.noised(clean, eps, t), process.target(clean, eps, t)
            before, after = (errors(m.denoise(noisy, t, given), target) for m in (self.model, self.policy))
            found.append(before - after)
        return torch.cat(found)


def check(settings: "Settings") -> None:
    """Raises UserError where the policy isn't there, unless it's one that this project may train first."""
    if Path(settings.policy).parent != MADE:
        trained(settings)


def trained(settings: "Settings") -> Path:
    """Returns the policy's folder; UserError where it isn't one."""
    folder = Path(settings.policy)
    if not (folder / "policy.json").is_file():
        raise UserError(
            f"rewards.implicit.policy: expected a trained policy's folder, found no policy.json in {folder}. "
            "Train it first: `dvc repro train@NAME`."
        )
    return folder


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the policy and its reference; UserError where a folder isn't what it should be."""
    folder = trained(settings)
    model = networks.load(settings.family, settings.model, ("vae", "text"), device)
    model.load_denoiser(Path(settings.init))
    policy = policies.load_policy(settings.family, settings.model, folder, device, ())
    denoiser = networks.denoiser_folder(settings.family, settings.init)
    parts = (folder, denoiser, Path(settings.model) / "vae")
    version = "1-" + "-".join(weights.folder_digest(part)[:8] for part in parts)
    times = Times(model.process, *settings.timesteps, settings.timestep_density)
    trained_on = (
        f"What the policy in {folder} learnt from: it judges by what it was trained to lower. In-family: that policy, "
        "and all that learnt from the same comparisons."
    )
    return Implicit(model, policy, times, settings, version, trained_on)
