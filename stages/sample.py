"""sample@ROUND: a policy's own images for training prompts, for people or a reward to compare."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffalign.core import files, publishing, records
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.generation.gallery import DTYPE, Manifest, PromptCount, forwards
from diffalign.generation.pipeline import sampling_of
from diffalign.generation.round_images import SAMPLES
from diffalign.generation.writer import entries, jobs_of, write_images
from diffalign.models import policies
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params
    from diffalign.config.rounds import Round

COMPARISONS, POLICIES = Path("data/comparisons"), Path("models/policies")


def run(params: "Params", name: str | None = None) -> None:
    """Writes `data/samples/ROUND`: PNGs and, last, a manifest with their checksums; goes on where it was killed.

    Noise is by the round's seed; sampler, steps and guidance are the policy's own, without rules of sampling. Raises
    UserError where there are no training prompts, or the policy can't be loaded.
    """
    if name is None or name not in params.rounds:
        raise UserError(f"sample@{name}: expected one of the rounds {sorted(params.rounds)}")
    settings, out, model = params.rounds[name], SAMPLES / name, params.model
    publishing.check_target(out)
    asked = params.sampling(settings.policy)
    if asked["rules"]:
        sys.stderr.write(f"sample {name}: images are made without {', '.join(asked['rules'])}\n")
    made, prompts, weights = asked | {"rules": {}}, prompts_of(settings), POLICIES / settings.policy
    jobs = jobs_of(prompts, settings.images_per_prompt)
    how = [made, params.generate.batch_size, settings.seed, settings.images_per_prompt, [p.text for p in prompts]]
    inputs = [file for file in sorted(weights.rglob("*")) if file.is_file()]
    work = files.work_folder(f"sample-{name}", how, inputs, {"model.family": model.family})
    with files.lock(work):
        files.remove_unfinished(work / "out")
        write_images(
            lambda: policies.load_policy(model.family, model.path, weights, default_device(), ("vae", "text")),
            jobs,
            work / "out",
            noise_seed=settings.seed,
            resolution=params.precompute.resolution,
            how=sampling_of(made),
            batch_size=params.generate.batch_size,
            what=f"sample {name}",
        )
        about = Manifest(
            **made,
            policy=settings.policy,
            noise_seed=settings.seed,
            seeds=settings.images_per_prompt,
            sets=(PromptCount(name="train", prompts=len(prompts), asked=settings.prompts, in_training=len(prompts)),),
            forwards=forwards(made),
            dtype=DTYPE,
            images=tuple(entries(jobs, work / "out")),
        )
        records.write(work / "out" / "manifest.json", about)
        publishing.publish(work / "out", out)
        shutil.rmtree(work)
    sys.stderr.write(f"sample {name}: {len(jobs):,} images of {settings.policy} are in {out}\n")


def prompts_of(settings: "Round") -> list[Prompt]:
    """Returns the training prompts to make images for, in an order by the round's seed; fewer are said on stderr."""
    every = comparisons.prompts(comparisons.read(COMPARISONS), "train")
    if not every:
        raise UserError(f"{COMPARISONS} has no prompts in the train split: nothing to make images for")
    if len(every) < settings.prompts:
        sys.stderr.write(f"careful: {len(every)} training prompts, {settings.prompts} were asked for: all are used.\n")
    order = np.random.default_rng((settings.seed, 0)).permutation(len(every))[: settings.prompts]
    return [Prompt(every[i], "train") for i in order]
