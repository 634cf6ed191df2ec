"""Images for a few held-out prompts from fixed noise, made during training and scored by rewards.

Shapes: n prompts, H W pixel height and width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.config.probe import Probe
from diffalign.config.rollout import Rolled
from diffalign.core.files import write_bytes
from diffalign.generation.pipeline import MakeImages, image_maker, initial_noise, no_noise, plain, png
from diffalign.models import family as families
from diffalign.monitoring.curve import Point
from diffalign.monitoring.probe import Draws
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward
from diffalign.training.learner import Learner
from diffalign.training.spec import Spec

if TYPE_CHECKING:
    from accelerate import Accelerator

ACROSS = 8
"""Images in a row of the picture."""


@dataclass(frozen=True)
class Previews:
    """Makes images at every probe; each rank makes its share, equally many."""

    prompts: list[str]
    noise: Tensor
    """[n, C, h, w]."""
    make_images: MakeImages
    size: int
    """Images a forward."""
    judges: list[Reward]
    folder: Path
    judge: str | None = None
    """The one of them that judges a policy which learns from its own pictures (`Rolled.judge`); None for others, whose
    probes have margins."""

    def take(self, step: int, accelerator: "Accelerator") -> Point:
        """Writes the step's picture; each reward's mean score as `score_NAME/vVERSION`.

        `unscored_NAME` counts the images that it couldn't score, where there are any.
        """
        images = self.images(accelerator)
        if accelerator.is_main_process:
            write_bytes(self.folder / f"step-{step:06d}.png", png(tiled(images)))
        point: Point = {}
        for judge in self.judges:
            scores = rewards.score_images(judge, list(images), self.prompts)[judge.name]
            known = scores[~np.isnan(scores)]
            if len(known):
                point[f"score_{judge.name}/v{judge.version}"] = float(known.mean())
                if judge.name == self.judge:
                    point |= {"judge": float(known.mean()), "judge_std": float(known.std())}
            if len(known) < len(scores):
                point[f"unscored_{judge.name}"] = float(len(scores) - len(known))
        return point

    def images(self, accelerator: "Accelerator") -> NDArray[np.uint8]:
        """Returns all images, uint8 [n, H, W, 3], on every rank."""
        n = len(self.prompts)
        each = -(-n // accelerator.num_processes)
        mine = [i % n for i in range(accelerator.process_index * each, (accelerator.process_index + 1) * each)]
        parts = [mine[start : start + self.size] for start in range(0, each, self.size)]
        with accelerator.autocast():
            made = np.concatenate(
                [self.make_images([self.prompts[i] for i in part], self.noise[part], no_noise) for part in parts]
            )
        every = torch.zeros(n, *made.shape[1:], device=accelerator.device)
        for i, image in zip(mine, made, strict=True):
            if accelerator.process_index * each <= i:  # padding is the first ranks'
                every[i] = torch.from_numpy(image).to(accelerator.device)
        images: NDArray[np.uint8] = accelerator.reduce(every, "sum").byte().cpu().numpy()
        return images


def open_previews(spec: Spec, settings: Probe, learner: Learner, draws: Draws, folder: Path) -> Previews:
    """Returns the previews of the probe's first prompts, from the noise that the generate stage gives them."""
    prompts = list(dict.fromkeys(pair.prompt for pair in draws.pairs))[: settings.images]
    model = families.load(spec.family, spec.model, ("vae", "text"), learner.accelerator.device)
    resolution = draws.source.images.manifest["fingerprint"]["resolution"]
    shape, seed = draws.source.shape, spec.policy.noise_seed
    how = plain(model.process, settings.image_steps, settings.guidance)
    return Previews(
        prompts=prompts,
        noise=torch.stack([initial_noise(seed, prompt, 0, shape) for prompt in prompts]),
        make_images=image_maker(model, learner.model.denoise, resolution, how),
        size=draws.source.micro_batch_size,
        judges=[rewards.load(name, values, learner.accelerator.device) for name, values in spec.rewards.items()],
        folder=folder,
        judge=spec.policy.judge(spec.rewards) if isinstance(spec.policy, Rolled) else None,
    )


def tiled(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [n, H, W, 3] as one, ACROSS a row, the rest of the last row black."""
    n, height, width, _ = images.shape
    across = min(n, ACROSS)
    rows = -(-n // across)
    canvas = np.zeros((rows * height, across * width, 3), np.uint8)
    for i, image in enumerate(images):
        y, x = divmod(i, across)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
    return canvas
