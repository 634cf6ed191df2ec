"""Opens the source of a policy's own pictures: the prompts, the VAE that decodes them, the rewards that score them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from diffalign.config.rollout import Rolled, used
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.shards.reader import Shards
from diffalign.diffusion.samplers import sampler as samplers
from diffalign.generation.pipeline import picture
from diffalign.models import family as families
from diffalign.rewards import reward as rewards
from diffalign.rollouts.slots import Places
from diffalign.rollouts.source import RolloutSource
from diffalign.training.learner import Learner
from diffalign.training.spec import Spec

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_rollouts(spec: Spec, learner: Learner) -> RolloutSource:
    """Opens the train split's prompts, the model's VAE and the policy's rewards; UserError where one is lacking."""
    policy, device = spec.policy, learner.accelerator.device
    if not isinstance(policy, Rolled):
        raise TypeError(f"policies.{spec.name}: expected settings of a method that rolls out, got {type(policy)}")
    texts = comparisons.prompts(comparisons.read(Path(spec.comparisons)), "train")
    if not texts:
        raise UserError(f"{spec.comparisons} has no prompts in the train split: nothing to make pictures for")
    prompts, manifest = Shards(Path(spec.shards), "prompts"), Shards(Path(spec.shards), "images").manifest
    model = families.load(spec.family, spec.model, ("vae",), device)
    square = (resolution := manifest["fingerprint"]["resolution"], resolution)
    image = {name: value[None].to(device) for name, value in model.image_cond(square, (0, 0), square).items()}
    chosen = {name: used(name, values) for name, values in policy.reward.items()}
    how = policy.rollout
    return RolloutSource(
        places=places(spec, policy, len(texts), learner.accelerator),
        texts=texts,
        prompts=prompts,
        image=image,
        shape=type(model).check(Path(spec.model), None).latent(resolution),
        process=model.process,
        sampler=samplers.load(how.sampler.model_dump()),
        steps=how.steps,
        guidance=how.guidance,
        decode=lambda x0: picture(model, x0),
        scorers={name: rewards.load(name, settings, device) for name, (_, settings) in chosen.items()},
        weighing={name: weight for name, (weight, _) in chosen.items()},
        summed=summing(learner.accelerator),
        device=device,
        train_unconditional=getattr(policy, "train_unconditional", True),
        alone=lambda: learner.parallel.micro_step(learner.denoiser, last=False),
    )


def places(spec: Spec, policy: Rolled, prompts: int, accelerator: "Accelerator") -> Places:
    """Returns what is in a run's slots; UserError where the processes can't share a global batch."""
    world = accelerator.num_processes
    if policy.batch_size % world:
        raise UserError(
            f"policies.{spec.name}.batch_size: expected a multiple of the {world} processes, got {policy.batch_size}"
        )
    share = policy.batch_size // world
    return Places(
        seed=policy.seed,
        prompts=prompts,
        batch_size=policy.batch_size,
        per_prompt=policy.rollout.images_per_prompt,
        updates=policy.rollout.updates,
        micro_batch_size=math.gcd(policy.micro_batch_size, share),
        shared_noise=policy.rollout.shared_noise,
        rank=accelerator.process_index,
        world=world,
    )


def summing(accelerator: "Accelerator") -> Callable[[Tensor], Tensor]:
    """Returns the sum over processes; the tensor itself where there is one process."""

    def summed(tensor: Tensor) -> Tensor:
        if accelerator.num_processes == 1:
            return tensor
        found: Tensor = accelerator.reduce(tensor, "sum")
        return found

    return summed


def needed_files(policy: Rolled, model: Path) -> list[Path]:
    """Lists the files that a rollout reads beside those of any training: the VAE's and the rewards'."""
    folders = [model / "vae", *(Path(str(v["path"])) for v in policy.reward.values() if v.get("path"))]
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def check_rewards(name: str, policy: Rolled) -> None:
    """Raises UserError where a reward of a policy lacks what it needs, before any training."""
    for reward, values in policy.reward.items():
        try:
            rewards.check(reward, used(reward, values)[1])
        except UserError as error:
            raise UserError(f"policies.{name}.reward.{reward}: {error}") from None
