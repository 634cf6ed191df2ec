"""Writes a policy's images: the noise of each image, files that a killed run leaves whole."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffalign.core import files
from diffalign.core.progress import Progress
from diffalign.data.pixels import to_uint8
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.diffusion.process import Denoise
from diffalign.generation.gallery import Entry, Rewarded
from diffalign.generation.pipeline import Chain, Sampling, chains, image_maker, latent_shape, png
from diffalign.generation.rules.rule import Looked, Rule, Score, Starts
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


@dataclass(frozen=True)
class Decision:
    """A rule by which a reward decides on the images, and the folder where what it says of each is noted."""

    rule: Rule
    score: Score
    notes: Path

    def note(self, job: Job, rewarded: Rewarded) -> None:
        """Notes what the reward said of an image, before the image is there."""
        files.write_json(self.file(job), rewarded.model_dump())

    def noted(self, job: Job) -> Rewarded:
        """Returns what was noted of an image."""
        return Rewarded.model_validate_json(self.file(job).read_bytes())

    def file(self, job: Job) -> Path:
        """Returns the file of an image's note."""
        return self.notes / f"{job.file}.json"


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
    mix: Callable[[Family], Denoise] | None = None,
    decision: Decision | None = None,
) -> None:
    """Makes the images that `folder` doesn't have yet, each written atomically; `what` is made, for the progress bar.

    `load` gives the policy's model; it isn't called where nothing is left to make. `mix` gives the network to sample
    with, if it isn't the policy's own. Raises UserError where a network gives values that aren't finite: the images
    before are kept.
    """
    batches = unfinished(jobs, batch_size, folder)
    if not batches:
        return
    looks = decision.rule.looks if decision else 1
    progress = Progress(what, looks * len(jobs), looks * (len(jobs) - sum(map(len, batches))))
    model = load()
    denoise, shape = mix(model) if mix else model.denoise, latent_shape(model, resolution)
    make_images, chain = image_maker(model, denoise, resolution, how), chains(model, denoise, resolution, how)
    for batch in batches:
        starts = Starts(noise_seed, [job.prompt for job in batch], [job.seed for job in batch], shape, model.device)
        if decision is None:
            images = make_images(list(starts.prompts), starts.noise(), starts.added())
        else:
            images = decided(decision, chain, starts, batch, partial(progress.update, len(batch)))
        for job, image in zip(batch, images, strict=True):
            files.write_bytes(folder / job.file, png(image))
        if decision is None:
            progress.update(len(batch))


@torch.no_grad()
def decided(
    decision: Decision,
    chains: Callable[[Sequence[str]], Chain],
    starts: Starts,
    batch: Sequence[Job],
    looked: Looked,
) -> NDArray[np.uint8]:
    """Makes a batch by a rule, uint8 [B, H, W, 3], and notes what the reward said."""
    found = decision.rule(chains(starts.prompts), starts, decision.score, looked)
    rows = zip(batch, *(x.tolist() for x in (found.first, found.kept, found.at, found.missing)), strict=True)
    for job, first, kept, at, missing in rows:
        decision.note(job, Rewarded(first=known(first), kept=known(kept), at=at, missing=missing))
    return to_uint8(found.pixels)


def known(score: float) -> float | None:
    """Returns a score; None for NaN."""
    return None if math.isnan(score) else score


def unfinished(jobs: Sequence[Job], size: int, folder: Path) -> list[Sequence[Job]]:
    """Lists the batches of `size` jobs that miss an image; whole ones, so that a resumed run makes the same images."""
    batches = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    return [batch for batch in batches if not all((folder / job.file).is_file() for job in batch)]


def entries(jobs: Sequence[Job], folder: Path, decision: Decision | None = None) -> list[Entry]:
    """Returns the manifest's line of each image, with what was noted of it where a reward decided."""
    return [
        Entry(
            file=job.file,
            prompt=job.prompt,
            set=job.set,
            category=job.category,
            prompt_index=job.prompt_index,
            seed=job.seed,
            sha256=files.sha256_file(folder / job.file),
            rewarded=decision.noted(job) if decision else None,
        )
        for job in jobs
    ]
