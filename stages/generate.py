"""generate@POLICY: images of one policy for held-out prompts, from noise that doesn't depend on the policy."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffalign.core import files, publishing
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data.comparisons import table as comparisons
from diffalign.generation.pipeline import drawer, initial_noise, latent_shape, png
from diffalign.models import family as families
from diffalign.models import policies
from diffalign.runtime.environment import default_device

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, POLICIES, OUT = Path("data/comparisons"), Path("models/policies"), Path("images")


@dataclass(frozen=True)
class Job:
    """One image to make; `prompt_index` and `seed` name its file, captions never do."""

    prompt: str
    prompt_index: int
    seed: int

    @property
    def file(self) -> str:
        """The image's file name."""
        return f"{self.prompt_index:05d}-{self.seed}.png"


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `images/POLICY/`: PNGs and, last, a manifest with their checksums; goes on where a killed attempt stopped.

    Raises UserError where the split has no prompts, or the policy can't be loaded.
    """
    if policy is None or policy not in params.policies:
        raise UserError(f"generate@{policy}: expected one of the policies {sorted(params.policies)}")
    publishing.check_target(OUT / policy)
    settings = params.generate
    prompts = chosen_prompts(settings.split, settings.prompts)
    jobs = [Job(text, i, s) for i, text in enumerate(prompts) for s in range(settings.seeds)]
    process = families.load(params.model.family, params.model.path, ()).process
    about = {
        "schema": 1,
        "policy": policy,
        "noise_seed": params.policies[policy].noise_seed,
        "split": settings.split,
        "prompts": len(prompts),
        "prompts_asked": settings.prompts,
        "seeds": settings.seeds,
        "resolution": params.precompute.resolution,
        "sampler": {**process.sampler, "steps": settings.steps, "guidance": settings.guidance},
    }
    work = files.work_folder(f"generate-{policy}", [about, settings.batch_size, prompts], inputs(params, policy))
    with files.lock(work):
        out = work / "out"
        files.remove_unfinished(out)
        make_images(params, policy, jobs, out)
        files.write_json(out / "manifest.json", {**about, "images": entries(jobs, out)})
        publishing.publish(out, OUT / policy)
        shutil.rmtree(work)


def make_images(params: "Params", policy: str, jobs: list[Job], out: Path) -> None:
    """Draws the images that `out` doesn't have yet, each written atomically."""
    settings, resolution = params.generate, params.precompute.resolution
    batches = unfinished(jobs, settings.batch_size, out)
    if not batches:
        return
    progress = Progress(f"generate {policy}", len(jobs), len(jobs) - sum(map(len, batches)))
    model = policies.load_policy(
        params.model.family, params.model.path, POLICIES / policy, default_device(), ("vae", "text")
    )
    draw = drawer(model, model.denoise, resolution, settings.steps, settings.guidance)
    shape, noise_seed = latent_shape(model, resolution), params.policies[policy].noise_seed
    for batch in batches:
        noise = torch.stack([initial_noise(noise_seed, job.prompt, job.seed, shape) for job in batch])
        for job, image in zip(batch, draw([job.prompt for job in batch], noise), strict=True):
            files.write_bytes(out / job.file, png(image))
        progress.update(len(batch))


def chosen_prompts(split: comparisons.Split, count: int) -> list[str]:
    """The first `count` distinct prompts of a split by hash; all of them, said on stderr, where there are fewer."""
    found = comparisons.prompts(comparisons.read(COMPARISONS), split)[:count]
    if not found:
        raise UserError(
            f"{COMPARISONS} has no prompts in the {split} split (generate.split): nothing to make images for. "
            "Raise data.test or data.validation, or name a file so; see metrics/ingest.json."
        )
    if len(found) < count:
        sys.stderr.write(
            f"generate: the {split} split has {len(found)} prompts, {count} were asked for: all are used\n"
        )
    return found


def inputs(params: "Params", policy: str) -> list[Path]:
    """The files that the images depend on beside the prompts: the policy's, its init's and the base model's."""
    folders = dict.fromkeys([POLICIES / policy, Path(params.policies[policy].init), Path(params.model.path)])
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def unfinished(jobs: list[Job], size: int, folder: Path) -> list[list[Job]]:
    """Batches of `size` jobs that miss an image; whole ones, so that a resumed run makes the same images."""
    batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    return [batch for batch in batches if not all((folder / job.file).is_file() for job in batch)]


def entries(jobs: list[Job], folder: Path) -> list[dict[str, Any]]:
    """The manifest's line of each image."""
    return [
        {
            "file": job.file,
            "prompt": job.prompt,
            "prompt_index": job.prompt_index,
            "seed": job.seed,
            "sha256": files.sha256_file(folder / job.file),
        }
        for job in jobs
    ]
