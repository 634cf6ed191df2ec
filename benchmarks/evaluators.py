"""The two ways of evaluating a model that benchmarks/evaluate.py compares: an image at a time, and in batches.

B images in a forward, C latent channels, h w latent height and width. Both start from the same noise, write PNGs and
score what they read back, so that images and scores can be compared.
"""

import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from diffalign.evaluation import scoring
from diffalign.evaluation.scores import Floats
from diffalign.generation import pipeline
from diffalign.generation.gallery import Gallery
from diffalign.generation.writer import Job, Prompt, entries, jobs_of, write_images
from diffalign.models import family as families
from diffalign.planning.flops import synchronize
from diffalign.rewards import reward as rewards
from diffalign.runtime import parallel

PARTS = ("vae", "text", "denoiser")
NOISE_SEED = 0


@dataclass(frozen=True)
class Setting:
    """The settings that all contenders share."""

    family: str
    model: Path
    resolution: int
    sampling: dict[str, Any]
    """`sampler`, `steps` and `guidance`, as params.yaml has them; the sampler is dpmpp_2m."""
    reward: str
    reward_settings: dict[str, Any]
    prompts: tuple[str, ...]
    device: str
    precision: str
    batch: int
    """Images in a forward of ours."""

    @property
    def jobs(self) -> list[Job]:
        """Lists the images to make: one of each prompt."""
        return jobs_of([Prompt(text, "test") for text in self.prompts], 1)

    def autocast(self) -> Any:
        """Returns a context in which products are of the precision: generate's own is fp32."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def judge(self) -> rewards.Reward:
        """Loads the judge."""
        return rewards.load(self.reward, self.reward_settings, self.device)


class Contender(Protocol):
    """A way of evaluating, its networks loaded."""

    def generate(self, folder: Path, jobs: list[Job]) -> None:
        """Writes a PNG for each job into a folder."""

    def score(self, folder: Path, jobs: list[Job]) -> Floats:
        """Returns the scores [N] of the images of these jobs, read from a folder."""


class PerPrompt:
    """Stock diffusers called for each prompt, each image opened and scored alone: our re-writing of public scripts.

    Its scheduler is the one that our sampler equals (tools/sampler_table.py). Its progress bar is off.
    """

    def __init__(self, setting: Setting) -> None:
        from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

        self.setting = setting
        self.pipe: Any = DiffusionPipeline.from_pretrained(setting.model).to(setting.device)
        spacing = {"steps_offset": 1, "timestep_spacing": setting.sampling["sampler"]["spacing"]}
        self.pipe.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config, **spacing)
        self.pipe.set_progress_bar_config(disable=True)
        self.shape = (self.pipe.unet.config.in_channels, *[setting.resolution // self.pipe.vae_scale_factor] * 2)
        self.reward = setting.judge()

    def generate(self, folder: Path, jobs: list[Job]) -> None:
        """Calls the pipeline a prompt at a time."""
        made = self.setting.sampling
        for job in jobs:
            noise = pipeline.initial_noise(NOISE_SEED, job.prompt, job.seed, self.shape)[None]
            with self.setting.autocast():
                images = self.pipe(
                    job.prompt,
                    height=self.setting.resolution,
                    width=self.setting.resolution,
                    num_inference_steps=made["steps"],
                    guidance_scale=made["guidance"],
                    latents=noise.to(self.setting.device),
                ).images
            images[0].save(folder / job.file)

    def score(self, folder: Path, jobs: list[Job]) -> Floats:
        """Opens and scores an image at a time."""
        name, found = self.setting.reward, []
        for job in jobs:
            pixels = np.asarray(Image.open(folder / job.file).convert("RGB"))
            found.append(float(rewards.score_images(self.reward, [pixels], [job.prompt])[name][0]))
        return np.array(found)


class Ours:
    """The generate and score stages' own functions."""

    def __init__(self, setting: Setting, compiled: bool = False) -> None:
        self.setting = setting
        self.model = families.load(setting.family, setting.model, PARTS, setting.device)
        if compiled:
            parallel.prepared(self.model.denoiser, True)
        self.reward = setting.judge()

    def generate(self, folder: Path, jobs: list[Job]) -> None:
        """Makes the images in batches."""
        with self.setting.autocast():
            write_images(
                lambda: self.model,
                jobs,
                folder,
                noise_seed=NOISE_SEED,
                resolution=self.setting.resolution,
                how=pipeline.sampling_of(self.setting.sampling),
                batch_size=self.setting.batch,
                what="images",
            )

    def score(self, folder: Path, jobs: list[Job]) -> Floats:
        """Checks the images' checksums and scores them in batches."""
        gallery = Gallery(folder, {"policy": folder.name}, tuple(entries(jobs, folder)))
        name = self.setting.reward
        return scoring.score_gallery(gallery, lambda i, p: rewards.score_images(self.reward, i, p), name)[name]


def turn(contender: Contender, folder: Path, jobs: list[Job], device: str) -> dict[str, Any]:
    """Takes one turn in an empty folder: seconds of making and of scoring the images, CPU seconds of both, the scores.

    What is on the disk afterwards can be compared; the folder's former content is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    synchronize(device)
    start, cpu = time.perf_counter(), time.process_time()
    contender.generate(folder, jobs)
    synchronize(device)
    made = time.perf_counter()
    scores = contender.score(folder, jobs)
    synchronize(device)
    end, cpu = time.perf_counter(), time.process_time() - cpu
    return {"generate": made - start, "score": end - made, "cpu_seconds": cpu, "scores": scores}
