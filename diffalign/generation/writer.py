"""Writes a policy's images: the noise of each image, files that a killed run leaves whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffalign.core import files
from diffalign.core.progress import Progress
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.generation.gallery import Entry
from diffalign.generation.pipeline import Sampling, image_maker, initial_noise, latent_shape, png, step_noise
from diffalign.models.family import Family


@dataclass(frozen=True)
class Job:
    """One image to make; `prompt_index` and `seed` name its file, captions never do."""

    prompt: str
    set: str
    category: str | None
    prompt_index: int
    seed: int

    @property
    def file(self) -> str:
        """Returns the image's file name."""
        return f"{self.prompt_index:05d}-{self.seed}.png"


def jobs_of(prompts: Sequence[Prompt], seeds: int) -> list[Job]:
    """Lists the images to make: `seeds` of each prompt."""
    return [Job(p.text, p.set, p.category, i, seed) for i, p in enumerate(prompts) for seed in range(seeds)]


def write_images(
    load: Callable[[], Family],
    jobs: Sequence[Job],
    folder: Path,
    *,
    noise_seed: int,
    resolution: int,
    how: Sampling,
    batch_size: int,
    what: str,
) -> None:
    """Makes the images that `folder` doesn't have yet, each written atomically; `what` is made, for the progress bar.

    `load` gives the policy's model; it isn't called where nothing is left to make. Raises UserError where a network
    gives values that aren't finite: the images before are kept.
    """
    batches = unfinished(jobs, batch_size, folder)
    if not batches:
        return
    progress = Progress(what, len(jobs), len(jobs) - sum(map(len, batches)))
    model = load()
    make_images, shape = image_maker(model, model.denoise, resolution, how), latent_shape(model, resolution)
    for batch in batches:
        prompts, seeds = [job.prompt for job in batch], [job.seed for job in batch]
        noise = torch.stack([initial_noise(noise_seed, job.prompt, job.seed, shape) for job in batch])
        added = step_noise(noise_seed, prompts, seeds, noise.to(model.device))
        for job, image in zip(batch, make_images(prompts, noise, added), strict=True):
            files.write_bytes(folder / job.file, png(image))
        progress.update(len(batch))


def unfinished(jobs: Sequence[Job], size: int, folder: Path) -> list[Sequence[Job]]:
    """Lists the batches of `size` jobs that miss an image; whole ones, so that a resumed run makes the same images."""
    batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    return [batch for batch in batches if not all((folder / job.file).is_file() for job in batch)]


def entries(jobs: Sequence[Job], folder: Path) -> list[Entry]:
    """Returns the manifest's line of each image."""
    return [
        Entry(
            file=job.file,
            prompt=job.prompt,
            set=job.set,
            category=job.category,
            prompt_index=job.prompt_index,
            seed=job.seed,
            sha256=files.sha256_file(folder / job.file),
        )
        for job in jobs
    ]
