"""generate@POLICY: images of one policy for held-out prompts, from noise that doesn't depend on the policy."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import files, publishing, records
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.prompts.prompt_set import Prompt
from diffalign.generation.gallery import DTYPE, Manifest
from diffalign.generation.pipeline import sampling_of
from diffalign.generation.prompts import chosen, counted
from diffalign.generation.writer import entries, jobs_of, write_images
from diffalign.models import policies
from diffalign.models.family import Family
from diffalign.runtime.environment import default_device
from diffalign.shapes.scenes import parse_caption

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, POLICIES, OUT = Path("data/comparisons"), Path("models/policies"), Path("images")


def run(params: "Params", policy: str | None = None) -> None:
    """Writes `images/POLICY/`: PNGs and, last, a manifest with their checksums; goes on where a killed attempt stopped.

    Raises UserError where a set has no prompts, the policy can't be loaded, or it gives values that aren't finite.
    """
    if policy is None or policy not in params.policies:
        raise UserError(f"generate@{policy}: expected one of the policies {sorted(params.policies)}")
    publishing.check_target(OUT / policy)
    settings = params.generate
    made = params.sampling(policy)
    table = comparisons.read(COMPARISONS)
    prompts = with_kinds(chosen(table, settings.prompts))
    jobs, sets = jobs_of(prompts, settings.seeds), counted(prompts, settings.prompts, table)
    about = {
        "policy": policy,
        "noise_seed": params.policies[policy].noise_seed,
        "seeds": settings.seeds,
        **made,
        "dtype": DTYPE,
    }
    named = {"model.family": params.model.family}
    work = files.work_folder(
        f"generate-{policy}",
        [about, settings.batch_size, [asdict(prompt) for prompt in prompts]],
        inputs(params, policy),
        named,
    )
    with files.lock(work):
        out = work / "out"
        files.remove_unfinished(out)
        write_images(
            lambda: load(params, policy),
            jobs,
            out,
            noise_seed=params.policies[policy].noise_seed,
            resolution=params.precompute.resolution,
            how=sampling_of(made),
            batch_size=settings.batch_size,
            what=f"generate {policy}",
        )
        records.write(out / "manifest.json", Manifest(**about, sets=tuple(sets), images=tuple(entries(jobs, out))))
        publishing.publish(out, OUT / policy)
        shutil.rmtree(work)


def with_kinds(prompts: list[Prompt]) -> list[Prompt]:
    """Returns the prompts with a category each: its set's, else the kind of scene of a caption of the shapes world."""
    scenes = {prompt.text: parse_caption(prompt.text) for prompt in prompts if prompt.category is None}
    return [replace(p, category=scene.kind) if p.category is None and (scene := scenes[p.text]) else p for p in prompts]


def load(params: "Params", policy: str) -> Family:
    """Loads the policy's model, with the parts that making images needs."""
    model = params.model
    return policies.load_policy(model.family, model.path, POLICIES / policy, default_device(), ("vae", "text"))


def inputs(params: "Params", policy: str) -> list[Path]:
    """Lists the files that the images depend on beside the prompts: the policy's, its init's and the base model's."""
    folders = dict.fromkeys([POLICIES / policy, Path(params.policies[policy].init), Path(params.model.path)])
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
